"""Reads an author's files for a bundle: single files, folders, and wheels of pure Python.

Hidden files and folders (`.git`, `.venv`) and `__pycache__` are left out. A wrong path does not fill the memory: sizes
are looked at before anything is read, and only regular files are read, since a pipe or a device may have no end.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Container, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from rota.common.bundle import RESERVED_FOLDER
from rota.common.errors import CodeError
from rota.common.limits import BUNDLE_FILES_MAX, MODULE_BYTES_MAX

TOP: Final = "."  # the guest path that puts a folder's content at the top
_LEFT_OUT: Final = ("__pycache__",)
_LEFT_OUT_SUFFIXES: Final = (".pyc", ".pyo")
_WHEEL_SUFFIX: Final = ".whl"
_WHEEL_FACTS_BYTES_MAX: Final = 1 << 16  # of .dist-info/WHEEL, which has a few lines

try:
    from lzma import LZMAError
except ImportError:  # a Python without it: zipfile then raises NotImplementedError or RuntimeError

    class LZMAError(Exception):  # type: ignore[no-redef]
        """Never raised here."""


_BAD_ARCHIVE: Final = (
    OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error, LZMAError,
)  # fmt: skip  # all that zipfile and the decompressors raise for damaged bytes


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
            if total + size > MODULE_BYTES_MAX or len(found) >= BUNDLE_FILES_MAX:
                raise CodeError(
                    f"{one.host}: with it there are more than {MODULE_BYTES_MAX} bytes or {BUNDLE_FILES_MAX} files; "
                    "leave out what the code does not read"
                )
            check_place(path, found, str(one.host))
            found[path] = source.read()
            total += len(found[path])  # files of /proc have no size until they are read
    return found


def check_place(path: str, found: Container[str], what: str) -> None:
    """Raise `CodeError` if a guest path is in the folder of Rota's own files, or taken."""
    if path.split("/")[0] == RESERVED_FOLDER:
        raise CodeError(f"{what}: the guest's folder {RESERVED_FOLDER}/ is Rota's own; use another name")
    if path in found:
        raise CodeError(f"{what}: there is another file {path} already; give one of them another name")


def read_regular(path: Path, what: str = "") -> bytes:
    """Return the bytes of a regular file. Raises `CodeError` for any other, and one over `MODULE_BYTES_MAX`."""
    what = what or str(path)
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would never return.
        with open(path, "rb", opener=_open_at_once) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise CodeError(f"{path} is no regular file: give one", path=str(path))
            data = file.read(MODULE_BYTES_MAX + 1) if found.st_size <= MODULE_BYTES_MAX else b""
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise CodeError(f"{path} cannot be read: {_reason(error)}", path=str(path)) from error
    size = max(found.st_size, len(data))
    if size > MODULE_BYTES_MAX:
        raise CodeError(f"{what} has {size} bytes, the limit is {MODULE_BYTES_MAX}", path=str(path))
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Source(NamedTuple):
    """Where the bytes of a file are: on the disk, or a member of a wheel."""

    path: Path
    size: int
    member: str = ""

    def read(self) -> bytes:
        if not self.member:
            return read_regular(self.path)
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
                return file.read(self.size)
        except _BAD_ARCHIVE as error:
            raise CodeError(f"{self.path} cannot be read: {_reason(error)}; get it anew") from None


def _files(given: Given) -> Iterator[tuple[str, _Source, int]]:
    host = given.host
    if host.is_dir():
        base = host.resolve().name if given.guest is None else given.guest
        for relative, path in _walk(host):
            size = _size(path)
            yield _joined(base, relative), _Source(path, size), size
    elif host.suffix == _WHEEL_SUFFIX:
        _size(host)
        for member, size in _wheel_members(host):
            yield _joined(given.guest or TOP, member), _Source(host, size, member), size
    else:
        size = _size(host)
        yield host.name if given.guest is None else given.guest, _Source(host, size), size


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
        found = path.stat()
    except (OSError, ValueError) as error:
        raise CodeError(f"{path} cannot be read: {_reason(error)}", path=str(path)) from None
    if not stat.S_ISREG(found.st_mode):
        raise CodeError(f"{path} is no regular file and no folder: leave it out", path=str(path))
    return found.st_size


# --- wheels -----------------------------------------------------------------------------------------------------------


def _wheel_members(wheel: Path) -> Iterator[tuple[str, int]]:
    """Yield the members of a wheel of pure Python with their sizes. Raises `CodeError` for any other file."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            _check_pure(wheel, archive)
            for info in sorted(archive.infolist(), key=lambda one: one.filename):
                if not info.is_dir() and not _is_left_out(PurePosixPath(info.filename).name):
                    yield info.filename, info.file_size
    except _BAD_ARCHIVE as error:
        raise CodeError(f"{wheel} is no wheel that can be read: {_reason(error)}") from None


def _check_pure(wheel: Path, archive: zipfile.ZipFile) -> None:
    """Raise `CodeError` unless the wheel says that it has no code for a platform ("Root-Is-Purelib", PEP 427)."""
    facts = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL") and name.count("/") == 1]
    if len(facts) != 1:
        raise CodeError(f"{wheel} is no wheel: it has no .dist-info/WHEEL")
    with archive.open(facts[0]) as file:
        said = file.read(_WHEEL_FACTS_BYTES_MAX)
    if b"root-is-purelib: true" not in said.lower():
        raise CodeError(
            f"{wheel.name} has code for a platform, which no guest can run: only wheels of pure Python can go along"
        )
