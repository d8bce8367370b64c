"""What a deploy of a command or a source binds to its name: a program, its arguments, environment and files. PURE.

A bundle names its program, a WASI program or the runtime of a language, by digest, and holds everything else: so the
digest of the bundle covers all that decides what a task does. It is one MessagePack array in canonical form
(digests.py), so equal bundles are equal bytes; docs/AGENTS.md shows the fields and bounds. A guest sees the files
read-only below `/`. The folder `rota/` is for files of Rota that run inside the guest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, Final, NamedTuple

import msgspec

from rota.common.digests import DIGEST_BYTES, pack
from rota.common.errors import CodeError
from rota.common.limits import (
    BUNDLE_DEPTH_MAX,
    BUNDLE_FILES_MAX,
    BUNDLE_PATH_BYTES_MAX,
    BUNDLE_TEXT_BYTES_MAX,
    BUNDLE_TEXTS_MAX,
    MODULE_BYTES_MAX,
)
from rota.common.shown import shown

VERSION: Final = 1
RESERVED_FOLDER: Final = "rota"


class BundleFile(NamedTuple):
    """A file. `path` is relative, with `/` between its parts."""

    path: str
    data: bytes


class Bundle(NamedTuple):
    """A program and what it starts with. `new_bundle` makes one from values in any order."""

    module: bytes  # digest of the program, or of the runtime
    entry: str  # path of the source's main file, one of `files`; empty for a command
    args: tuple[str, ...]  # behind the program's own name
    env: tuple[tuple[str, str], ...]  # sorted by name
    files: tuple[BundleFile, ...]  # sorted by path


def new_bundle(
    module: bytes,
    *,
    entry: str = "",
    args: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Return a bundle of these values, with `env` and `files` in order. Raises `CodeError` if it is not valid."""
    pairs = [BundleFile(path, data) for path, data in (files or {}).items()]
    bundle = Bundle(module, entry, tuple(args), tuple(sorted((env or {}).items())), tuple(sorted(pairs, key=_path)))
    _check(bundle)
    return bundle


def encode_bundle(bundle: Bundle) -> bytes:
    """Return the bytes of a bundle. Raises `CodeError` naming the field if it is not valid or too large."""
    _check(bundle)
    data = pack((VERSION, *bundle))
    if len(data) > MODULE_BYTES_MAX:
        raise CodeError(f"a bundle of {len(data)} bytes, at most {MODULE_BYTES_MAX}: leave files out", field="files")
    return data


def may_be_bundle(data: bytes) -> bool:
    """Return whether these bytes begin as a bundle does: an array of its version and its fields."""
    return data[:1] == bytes([0x91 + len(Bundle._fields)])


def decode_bundle(data: bytes) -> Bundle:
    """Return the bundle in these bytes. Raises `CodeError` naming the field if they are not the bytes of one."""
    if len(data) > MODULE_BYTES_MAX:
        raise CodeError(f"a bundle of {len(data)} bytes, at most {MODULE_BYTES_MAX}: leave files out", field="files")
    try:
        version, module, entry, args, env, files = _HEAD.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CodeError(f"this is no bundle: {error}") from None
    if version != VERSION:
        raise CodeError(f"a bundle of version {version}, this Rota reads version {VERSION}", field="version")
    bundle = Bundle(
        module,
        entry,
        _decoded("args", args, BUNDLE_TEXTS_MAX, _TEXTS),
        _decoded("env", env, BUNDLE_TEXTS_MAX, _PAIRS),
        _decoded("files", files, BUNDLE_FILES_MAX, _FILES),
    )
    if pack((VERSION, *bundle)) != data:
        raise CodeError("this is no bundle: it is not in canonical form, shortest lengths and nothing behind it")
    _check(bundle)
    return bundle


_HEAD: Final = msgspec.msgpack.Decoder(tuple[int, bytes, str, msgspec.Raw, msgspec.Raw, msgspec.Raw])
_TEXTS: Final = msgspec.msgpack.Decoder(tuple[str, ...])
_PAIRS: Final = msgspec.msgpack.Decoder(tuple[tuple[str, str], ...])
_FILES: Final = msgspec.msgpack.Decoder(tuple[BundleFile, ...])


def _decoded(field: str, raw: msgspec.Raw, items_max: int, decoder: msgspec.msgpack.Decoder[Any]) -> Any:
    """Return an array that was counted before its items are made, since a few bytes could stand for millions."""
    data = bytes(raw)
    found = _array_length(data)
    if found is None or found > items_max:
        has = "no array" if found is None else f"an array of {found}"
        raise CodeError(f"bundle field {field}: {has}, not an array of at most {items_max}", field=field)
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CodeError(f"bundle field {field}: {error}", field=field) from None


def _array_length(data: bytes) -> int | None:
    if 0x90 <= data[0] <= 0x9F:
        return data[0] & 0x0F
    return int.from_bytes(data[1 : {0xDC: 3, 0xDD: 5}[data[0]]], "big") if data[0] in (0xDC, 0xDD) else None


# --- rules ------------------------------------------------------------------------------------------------------------


def _check(bundle: Bundle) -> None:
    if type(bundle.module) is not bytes or len(bundle.module) != DIGEST_BYTES:
        raise CodeError(f"bundle field module: {shown(bundle.module)}, not a digest of 32 bytes", field="module")
    _check_texts("args", bundle.args)
    _check_texts("env", [text for pair in bundle.env for text in pair])
    names = [name for name, _ in bundle.env]
    for name in names:
        if not name or "=" in name:
            raise CodeError(f"bundle field env: {shown(name)} is no name: not empty, and without `=`", field="env")
    _check_order("env", names)
    _check_files(bundle.files)
    if bundle.entry and bundle.entry not in [path for path, _ in bundle.files]:
        raise CodeError(f"bundle field entry: {shown(bundle.entry)} is none of its files", field="entry")


def _check_texts(field: str, texts: Iterable[str]) -> None:
    count = size = 0
    for text in texts:
        encoded = _utf8(field, text)
        if b"\0" in encoded:
            raise CodeError(f"bundle field {field}: {shown(text)} has a zero byte", field=field)
        count, size = count + 1, size + len(encoded)
    if count > BUNDLE_TEXTS_MAX or size > BUNDLE_TEXT_BYTES_MAX:
        raise CodeError(
            f"bundle field {field}: {count} texts of {size} bytes, at most {BUNDLE_TEXTS_MAX} of "
            f"{BUNDLE_TEXT_BYTES_MAX} together: pass more as a file",
            field=field,
        )


def _check_files(files: tuple[BundleFile, ...]) -> None:
    if len(files) > BUNDLE_FILES_MAX:
        raise CodeError(f"bundle field files: {len(files)} files, at most {BUNDLE_FILES_MAX}", field="files")
    for path, data in files:
        _check_path(path)
        if type(data) is not bytes:
            raise CodeError(f"bundle field files: the content of {shown(path)} is not bytes", field="files")
    paths = [path for path, _ in files]
    _check_order("files", paths)
    folders = {path[:end] for path in paths for end, sign in enumerate(path) if sign == "/"}
    for path in paths:
        if path in folders:
            raise CodeError(f"bundle field files: {shown(path)} is both a file and a folder", field="files")


def _check_path(path: str) -> None:
    encoded = _utf8("files", path)
    parts = path.split("/")
    if not 0 < len(encoded) <= BUNDLE_PATH_BYTES_MAX or len(parts) > BUNDLE_DEPTH_MAX:
        raise CodeError(
            f"bundle field files: the path {shown(path)} has {len(encoded)} bytes and {len(parts)} parts, wants 1 to "
            f"{BUNDLE_PATH_BYTES_MAX} bytes and at most {BUNDLE_DEPTH_MAX} parts",
            field="files",
        )
    if any(part in ("", ".", "..") for part in parts) or any(sign < " " or sign == "\x7f" for sign in path):
        raise CodeError(
            f"bundle field files: {shown(path)} is no path: relative, `/` between parts, no part empty, `.` or `..`, "
            "no control characters",
            field="files",
        )


def _check_order(field: str, keys: list[str]) -> None:
    for before, after in pairwise(keys):
        if before >= after:
            what = "is there twice" if before == after else f"stands behind {shown(before)}"
            raise CodeError(f"bundle field {field}: {shown(after)} {what}; wants them sorted", field=field)


def _utf8(field: str, text: str) -> bytes:
    if type(text) is not str:
        raise CodeError(f"bundle field {field}: {shown(text)} is not text", field=field)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CodeError(f"bundle field {field}: {shown(text)} cannot be written as UTF-8", field=field) from None


def _path(file: BundleFile) -> str:
    return file.path
