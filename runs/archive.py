"""The file that `rota export` makes: one zip file that holds a run and detects any change to itself.

Rules, kept by `pack` and checked by `unpack`:
- Members are stored, not compressed, sorted by name, with a fixed time and mode: the same run gives the same bytes, and
  no archive unpacks to more bytes than it has itself.
- `manifest.json`, the last member, lists every other one with its size and BLAKE3 digest, and identifies the run.
- The zip comment, the last 64 bytes of the file, is the BLAKE3 digest of everything before it, so a change of any byte
  is detected, in the zip's own fields too.
- Only names that match `_KINDS` are allowed, so nothing is written outside the folder. Code and tensors must have
  the digest in their name.

The seal detects damage. To detect tampering, compare its digest (`rota import` prints it) with one received by another
channel. A change of the layout needs a new ARCHIVE_FORMAT. docs/JOURNAL.md describes the file.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from blake3 import blake3

from rota.common.code_kinds import content_file
from rota.common.digests import DIGEST_BYTES
from rota.common.errors import ConfigError, JournalError, StorageFull
from rota.host.endpoints import CONVERSATIONS
from rota.host.files import private_opener, sync_folder

ARCHIVE_FORMAT: Final = 3
ARCHIVE_MAGIC: Final = b"PK\x03\x04"
JOURNAL: Final = "run.rota"
_PRIVATE: Final = (JOURNAL, CONVERSATIONS)  # files that are written to: the others are read-only

_KIND: Final = "rota run"
_MANIFEST: Final = "manifest.json"
_MANIFEST_BYTES_MAX: Final = 64 << 20
_SEAL_CHARS: Final = 2 * DIGEST_BYTES
_CHUNK_BYTES: Final = 1 << 20
_WHY_CHARS_MAX: Final = 1_000  # an archive may hold names of any length
_TIME: Final = (1980, 1, 1, 0, 0, 0)  # the earliest that zip can express
_UNIX: Final = 3
_ATTRIBUTES: Final = (stat.S_IFREG | 0o644) << 16
_SEALED_MODE: Final = 0o444
_ZIP_ERRORS: Final = (zipfile.BadZipFile, struct.error, NotImplementedError, RuntimeError, EOFError, ValueError)

# The paths allowed in an archive; the group `digest`, if present, is the digest of the content.
_PART: Final = r"(?!\.)[^/\\:\x00-\x1f\x7f]+"
_KINDS: Final = (
    re.compile(re.escape(JOURNAL)),
    re.compile(re.escape(CONVERSATIONS)),
    re.compile(r"modules/(?P<digest>[0-9a-f]{64})\.(?:wasm|bundle)"),
    re.compile(
        r"tensors/(?P<first>[0-9a-f]{2})/(?P<second>[0-9a-f]{2})/(?P<digest>(?P=first)(?P=second)[0-9a-f]{60})\.npy"
    ),
    re.compile(rf"models/(?!\.)[A-Za-z0-9_.-]+/[1-9][0-9]{{0,8}}(?:/{_PART})+"),
)

Progress = Callable[[int, int], None]


class Member(NamedTuple):
    """A file of the archive, other than the manifest."""

    path: str
    size_bytes: int
    digest: bytes


class Manifest(NamedTuple):
    """The contents of manifest.json: who made the archive, which run it holds, which files are missing, its members."""

    rota: str
    run: Mapping[str, Any]
    missing: Sequence[Mapping[str, str]]
    members: tuple[Member, ...]


class Packed(NamedTuple):
    """An archive that was written or read, and its seal: the digest at its end."""

    manifest: Manifest
    seal: str


def code_path(digest: bytes, content: str) -> str:
    """Return the path of a module, component or bundle in an archive and in a run folder."""
    return f"modules/{content_file(digest, content)}"


def tensor_path(digest: bytes) -> str:
    """Return the path of a tensor in an archive and in a run folder."""
    name = digest.hex()
    return f"tensors/{name[:2]}/{name[2:4]}/{name}.npy"


# --- pack -----------------------------------------------------------------------------------------


def pack(
    file: Path,
    sources: Mapping[str, Path],
    *,
    rota: str,
    run: Mapping[str, Any],
    missing: Sequence[Mapping[str, str]],
    progress: Progress | None = None,
) -> Packed:
    """Write an archive of these files, keyed by their path in it. The file appears complete or not at all.

    Raises `ConfigError` if the file exists or a source does not have the digest in its name.
    """
    if file.exists():
        raise ConfigError(f"{file} is there already: remove it, or name another file", path=str(file))
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    with _disk_errors(file):
        try:
            with draft.open("x+b") as target:
                packed = _write(target, sources, Manifest(rota, run, missing, ()), progress)
                target.flush()
                os.fsync(target.fileno())
            os.replace(draft, file)
            sync_folder(file.parent)
        finally:
            draft.unlink(missing_ok=True)
    return packed


def _write(target: IO[bytes], sources: Mapping[str, Path], manifest: Manifest, progress: Progress | None) -> Packed:
    total = sum(source.stat().st_size for source in sources.values())
    done = 0
    members: list[Member] = []
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = b"0" * _SEAL_CHARS
        for path in sorted(sources):
            members.append(_write_member(archive, path, sources[path]))
            done += members[-1].size_bytes
            if progress is not None:
                progress(done, total)
        manifest = manifest._replace(members=tuple(members))
        text = _manifest_bytes(manifest)
        with archive.open(_info(_MANIFEST, len(text)), "w") as writer:
            writer.write(text)
    seal = _seal_of(target)
    target.seek(-_SEAL_CHARS, os.SEEK_END)
    target.write(seal.encode("ascii"))
    return Packed(manifest, seal)


def _write_member(archive: zipfile.ZipFile, path: str, source: Path) -> Member:
    hasher = blake3()
    size_bytes = source.stat().st_size
    with source.open("rb") as reader, archive.open(_info(path, size_bytes), "w") as writer:
        for chunk in _chunks(reader):
            hasher.update(chunk)
            writer.write(chunk)
        if reader.tell() != size_bytes:
            raise ConfigError(f"{source} changes while it is read: export again", path=str(source))
    if not _fits(path, hasher.digest()):
        what = f"{source} is damaged, or has a name that an archive cannot hold"
        raise ConfigError(f"{what}: put the right file there, or export without it", path=str(source))
    return Member(path, size_bytes, hasher.digest())


def _info(path: str, size_bytes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, _TIME)
    info.create_system = _UNIX
    info.external_attr = _ATTRIBUTES
    info.file_size = size_bytes  # decides whether the member needs the fields of large files
    return info


def _manifest_bytes(manifest: Manifest) -> bytes:
    value = {
        "kind": _KIND,
        "format": ARCHIVE_FORMAT,
        "rota": manifest.rota,
        "run": manifest.run,
        "missing": list(manifest.missing),
        "members": [[member.path, member.size_bytes, member.digest.hex()] for member in manifest.members],
    }
    text = (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
    if len(text) > _MANIFEST_BYTES_MAX:
        raise ConfigError(
            f"a manifest of {len(text)} bytes, {_MANIFEST_BYTES_MAX} are allowed: this run names too many files for "
            "one archive; copy its folder instead"
        )
    return text


# --- unpack ---------------------------------------------------------------------------------------


def unpack(file: Path, folder: Path, *, keep: bool = False, progress: Progress | None = None) -> Packed:
    """Write all files of an archive into an existing empty folder, and check every digest.

    With `keep` the files are durable, and read-only where a run folder has them so. Raises `JournalError` for a file
    that `pack` cannot have made; what was written until then stays, so remove the folder.
    """
    with _disk_errors(file), file.open("rb") as stream:
        seal = _check_seal(file, stream)
        with _zip_errors(file), zipfile.ZipFile(stream) as archive:
            manifest = _read_manifest(file, archive)
            total = sum(member.size_bytes for member in manifest.members)
            done = 0
            for member in manifest.members:
                _extract(file, archive, member, folder, keep)
                done += member.size_bytes
                if progress is not None:
                    progress(done, total)
    return Packed(manifest, seal)


def _check_seal(file: Path, stream: IO[bytes]) -> str:
    if stream.seek(0, os.SEEK_END) < _SEAL_CHARS:
        raise _refusal(file, "it ends too early")
    stream.seek(-_SEAL_CHARS, os.SEEK_END)
    said = stream.read(_SEAL_CHARS)
    if re.fullmatch(rb"[0-9a-f]{64}", said) is None:
        raise _refusal(file, "it does not end with the digest that seals it: it was cut, changed or packed again")
    if _seal_of(stream).encode("ascii") != said:
        raise _refusal(file, f"{_altered(file, stream)}: the digest at its end does not fit")
    return said.decode("ascii")


def _altered(file: Path, stream: IO[bytes]) -> str:
    """Return what was altered: the member whose bytes changed, if the archive can still be read."""
    try:
        with _zip_errors(file), zipfile.ZipFile(stream) as archive:
            for member in _read_manifest(file, archive).members:
                if not _is_whole(archive, member):
                    return f"{member.path} was altered"
    except (JournalError, OSError):
        pass  # the manifest was altered too
    return "it was altered"


def _is_whole(archive: zipfile.ZipFile, member: Member) -> bool:
    try:
        with archive.open(member.path) as reader:
            return _digest_of(reader) == member.digest
    except _ZIP_ERRORS:
        return False


def _read_manifest(file: Path, archive: zipfile.ZipFile) -> Manifest:
    """Return the manifest, after checking that it lists every member of the zip and that `pack` can have made each."""
    infos = archive.infolist()
    for info in infos:
        _check_info(file, info)
    if not infos or infos[-1].filename != _MANIFEST or infos[-1].file_size > _MANIFEST_BYTES_MAX:
        raise _refusal(file, f"a zip file without {_MANIFEST} at its end")
    try:
        manifest = _parse_manifest(file, json.loads(archive.read(infos[-1])))
    except (KeyError, TypeError, RecursionError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _refusal(file, f"its {_MANIFEST} cannot be read ({type(error).__name__}: {error})") from None
    named = [(member.path, member.size_bytes) for member in manifest.members]
    held = [(info.filename, info.file_size) for info in infos[:-1]]
    if named != held:
        raise _refusal(file, _difference(dict(named), dict(held)))
    return manifest


def _difference(named: dict[str, int], held: dict[str, int]) -> str:
    for path in sorted({**named, **held}):
        if path not in held:
            return f"{path!r} is missing"
        if named.get(path) != held[path]:
            return f"{path!r} is not the one that its {_MANIFEST} names"
    return "its members are not in order"


def _check_info(file: Path, info: zipfile.ZipInfo) -> None:
    """Refuse what `pack` never writes: links, compression, encryption, wrong sizes."""
    plain = info.external_attr == _ATTRIBUTES and info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1
    if not plain or info.compress_size != info.file_size or info.orig_filename != info.filename:
        raise _refusal(file, f"its member {info.filename!r} is none that `rota export` makes")


def _parse_manifest(file: Path, value: Any) -> Manifest:
    if value["kind"] != _KIND:
        raise KeyError("kind")
    if value["format"] != ARCHIVE_FORMAT:
        raise _refusal(file, f"archive format {value['format']!r}; this rota reads format {ARCHIVE_FORMAT}")
    rota, run, missing = value["rota"], value["run"], value["missing"]
    if not isinstance(rota, str) or not isinstance(run, dict) or not all(isinstance(one, dict) for one in missing):
        raise TypeError("rota, run or missing is of another type")
    members = tuple(_parse_member(file, item) for item in value["members"])
    paths = [member.path for member in members]
    if JOURNAL not in paths:
        raise _refusal(file, f"{JOURNAL} is missing")
    if paths != sorted(dict.fromkeys(paths)):
        raise _refusal(file, "its members are not in order, or one comes twice")
    return Manifest(rota, run, missing, members)


def _parse_member(file: Path, item: Any) -> Member:
    path, size_bytes, text = item
    if not isinstance(path, str) or type(size_bytes) is not int or size_bytes < 0 or not isinstance(text, str):
        raise TypeError(f"no member: {item!r}")
    if re.fullmatch(r"[0-9a-f]{64}", text) is None:
        raise TypeError(f"no digest: {text!r}")
    digest = bytes.fromhex(text)
    if not _fits(path, digest):
        raise _refusal(file, f"{path!r} is no file of a run")
    return Member(path, size_bytes, digest)


def _fits(path: str, digest: bytes) -> bool:
    """Return whether an archive may hold a file of this path and digest."""
    match = next((match for kind in _KINDS if (match := kind.fullmatch(path)) is not None), None)
    return match is not None and match.groupdict().get("digest", digest.hex()) == digest.hex()


def _extract(file: Path, archive: zipfile.ZipFile, member: Member, folder: Path, keep: bool) -> None:
    target = folder / member.path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hasher = blake3()
    with archive.open(member.path) as reader, open(target, "xb", opener=private_opener) as writer:
        for chunk in _chunks(reader):
            hasher.update(chunk)
            writer.write(chunk)
        writer.flush()
        if keep:
            os.fsync(writer.fileno())
    if target.stat().st_size != member.size_bytes or hasher.digest() != member.digest:
        raise _refusal(file, f"{member.path} was altered")
    if keep:
        target.chmod(0o600 if member.path in _PRIVATE else _SEALED_MODE)


# --- small parts ----------------------------------------------------------------------------------


def _seal_of(stream: IO[bytes]) -> str:
    """Return the digest of all but the last 64 bytes, as hex digits."""
    rest = stream.seek(0, os.SEEK_END) - _SEAL_CHARS
    stream.seek(0)
    hasher = blake3()
    while rest and (chunk := stream.read(min(_CHUNK_BYTES, rest))):
        hasher.update(chunk)
        rest -= len(chunk)
    return hasher.hexdigest()


def _digest_of(reader: IO[bytes]) -> bytes:
    hasher = blake3()
    for chunk in _chunks(reader):
        hasher.update(chunk)
    return hasher.digest()


def _chunks(reader: IO[bytes]) -> Iterator[bytes]:
    while chunk := reader.read(_CHUNK_BYTES):
        yield chunk


@contextmanager
def _zip_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise _refusal(file, f"{type(error).__name__}: {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset before the beginning of the file
            raise
        raise _refusal(file, "its directory leads outside of it") from error


@contextmanager
def _disk_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename} is not there: name another path", path=str(error.filename)) from error
    except OSError as error:
        what = f"{error.filename or file}: {error.strerror}"
        raise StorageFull(f"{what}; see to room and rights there, then try again", path=str(file)) from error


def _refusal(file: Path, why: str) -> JournalError:
    return JournalError(
        f"{file} is not an archive that can be used: {why[:_WHY_CHARS_MAX]}. Take it from where it came from, or "
        "export the run again",
        path=str(file),
    )
