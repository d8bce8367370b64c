"""Reads an author's files for a bundle: single files, folders, and wheels of pure Python.

Hidden files and folders (`.git`, `.venv`) and `__pycache__` are left out. Sizes are looked at before anything is read,
so that a wrong path does not fill the memory.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from rota.common.bundle import RESERVED_FOLDER
from rota.common.errors import CodeError
from rota.common.limits import BUNDLE_FILES_MAX, MODULE_BYTES_MAX

TOP: Final = "."  # the guest path that puts a folder's content at the top
_LEFT_OUT: Final = ("__pycache__",)
_LEFT_OUT_SUFFIXES: Final = (".pyc", ".pyo")
_WHEEL_SUFFIX: Final = ".whl"


class Given(NamedTuple):
    """A file or folder of the host, and where it goes: a path of the guest, or None for its own name at the top."""

    host: Path
    guest: str | None = None


def gather(given: Iterable[Given]) -> dict[str, bytes]:
    """Return all files by guest path. Raises `CodeError` for what cannot be read, is too much, or meets another."""
    found: dict[str, bytes] = {}
    total = 0
    for one in given:
        for path, source, size in _files(one):
            total += size
            if total > MODULE_BYTES_MAX or len(found) >= BUNDLE_FILES_MAX:
                raise CodeError(
                    f"{one.host}: with it there are more than {MODULE_BYTES_MAX} bytes or {BUNDLE_FILES_MAX} files; "
                    "leave out what the code does not read"
                )
            if path.split("/")[0] == RESERVED_FOLDER:
                raise CodeError(f"{one.host}: the guest's folder {RESERVED_FOLDER}/ is Rota's own; use another name")
            if path in found:
                raise CodeError(f"{one.host}: there is another file {path} already; give one of them another name")
            found[path] = source.read()
    return found


class _Source(NamedTuple):
    """Where the bytes of a file are: on the disk, or a member of a wheel."""

    path: Path
    member: str = ""

    def read(self) -> bytes:
        try:
            if not self.member:
                return self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise CodeError(f"{self.path} cannot be read: {getattr(error, 'strerror', error)}") from None


def _files(given: Given) -> Iterator[tuple[str, _Source, int]]:
    host = given.host
    if host.is_dir():
        base = host.resolve().name if given.guest is None else given.guest
        for relative, path in _walk(host):
            yield _joined(base, relative), _Source(path), _size(path)
    elif host.suffix == _WHEEL_SUFFIX:
        for member, size in _wheel_members(host):
            yield _joined(given.guest or TOP, member), _Source(host, member), size
    elif host.is_file():
        yield host.name if given.guest is None else given.guest, _Source(host), _size(host)
    else:
        raise CodeError(f"{host} is no file and no folder", path=str(host))


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_left_out(name))
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise CodeError(f"{Path(place) / name} is a link to a folder; give that folder by itself")
        for name in sorted(names):
            if not _is_left_out(name):
                path = Path(place) / name
                yield path.relative_to(folder).as_posix(), path


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name in _LEFT_OUT or name.endswith(_LEFT_OUT_SUFFIXES)


def _joined(base: str, relative: str) -> str:
    return relative if base == TOP else f"{base}/{relative}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}", path=str(path)) from None


# --- wheels -----------------------------------------------------------------------------------------------------------


def _wheel_members(wheel: Path) -> Iterator[tuple[str, int]]:
    """Yield the members of a wheel of pure Python with their sizes. Raises `CodeError` for any other file."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            _check_pure(wheel, archive)
            for info in sorted(archive.infolist(), key=lambda one: one.filename):
                if not info.is_dir() and not _is_left_out(PurePosixPath(info.filename).name):
                    yield info.filename, info.file_size
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CodeError(f"{wheel} is no wheel that can be read: {getattr(error, 'strerror', error)}") from None


def _check_pure(wheel: Path, archive: zipfile.ZipFile) -> None:
    """Raise `CodeError` unless the wheel says that it has no code for a platform ("Root-Is-Purelib", PEP 427)."""
    facts = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL") and name.count("/") == 1]
    if len(facts) != 1:
        raise CodeError(f"{wheel} is no wheel: it has no .dist-info/WHEEL")
    if b"root-is-purelib: true" not in archive.read(facts[0]).lower():
        raise CodeError(
            f"{wheel.name} has code for a platform, which no guest can run: only wheels of pure Python can go along"
        )
