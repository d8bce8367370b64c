"""Checks that a run file is complete: the files that were opened, its WAL, and the newest acknowledged record.

SQLite does not notice two faults. If the files of a live broker are removed, replaced or cut, it goes on writing. If a
WAL is lost after a kill, the file without it is valid but ends earlier. `FileIdentity` detects the first.
For the second, a file being written is marked in its head until it is closed cleanly, and after each commit a small
file beside it notes the last record. That note is not synced: after a power cut it may lag, but never lead.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import Final

from rota.broker.log import Position
from rota.broker.sqlite_file import refusal
from rota.common.errors import JournalError, JournalLost
from rota.host.files import PRIVATE_FILE_MODE, make_private
from rota.host.sqlite_files import beside

NOTE_SUFFIX: Final = "-end"
_NOTE: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{64})\n")
_NOTE_BYTES: Final = 86


class FileIdentity:
    """The identity of a run's files when they were opened for writing, and the sizes below which they do not get."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        """`size_bytes` is that of all pages: at the next checkpoint SQLite may cut the file, but not below it. The WAL
        is not cut while it is open.
        """
        file, wal = str(path), str(beside(path, "-wal"))
        identity, now_bytes = _identity_of(file)
        self._opened = [(file, identity, min(now_bytes, size_bytes)), (wal, *_identity_of(wal))]

    def check(self) -> None:
        """Raise `JournalLost` if the files at the paths are not those being written, or were cut."""
        for name, opened, least_bytes in self._opened:
            found, size = _identity_of(name)
            if found == opened and size < least_bytes:
                raise JournalLost(
                    f"{name} was cut to {size} bytes while this process wrote to it, or another broker has taken it "
                    "over. Nothing more is acknowledged here; use the other broker if there is one, else put the run "
                    "folder back from a copy and start again",
                    path=name,
                )
            if found != opened:
                what = "is not there any more" if found is None else "is another file now"
                raise JournalLost(
                    f"{name} {what}: it was removed, moved or replaced while this process wrote to it. Nothing more is "
                    "acknowledged; put the run folder back from a copy and start again, or start in another one",
                    path=name,
                )


def _identity_of(path: str) -> tuple[tuple[int, int] | None, int]:
    """Return the identity of a file and its size; None and 0 if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None, 0
    return (status.st_dev, status.st_ino), status.st_size


class EndNote:
    """The file beside a run file that notes its last record, kept open by the writer."""

    def __init__(self, path: Path) -> None:
        self._path = beside(path, NOTE_SUFFIX)
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # without room there is no note; it is not essential
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._path, flags, PRIVATE_FILE_MODE)
            make_private(self._path)

    def write(self, end: Position) -> None:
        """Note that the records up to here are durable."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                _write_at_start(self._descriptor, b"%020d %s\n" % (end.number, end.chain.hex().encode()))

    def close(self, *, remove: bool) -> None:
        """Close the note; with `remove` also delete it, because the run file was closed cleanly."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if remove:
            self._path.unlink(missing_ok=True)


def _write_at_start(descriptor: int, line: bytes) -> None:
    if hasattr(os, "pwrite"):
        os.pwrite(descriptor, line, 0)
    else:
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, line)


def noted_end(path: Path) -> Position | None:
    """Return the position in the note beside a run file; None if there is none that can be read."""
    try:
        with beside(path, NOTE_SUFFIX).open("rb") as file:
            match = _NOTE.fullmatch(file.read(_NOTE_BYTES + 1))
    except OSError:
        return None
    return None if match is None else Position(int(match[1]), bytes.fromhex(match[2].decode()))


def check_regular(path: Path) -> None:
    """Raise `JournalError` if a folder, pipe or device has the name of one of a run's files: to open a pipe blocks."""
    for suffix in ("", "-wal", "-shm", NOTE_SUFFIX):
        name = beside(path, suffix)
        try:
            mode = name.stat().st_mode
        except OSError:
            continue  # missing, or the error of whoever opens it says more
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            raise refusal(path, f"{name.name} is {what}, not a file", f"move {name} away")


def missing_wal(path: Path) -> JournalError:
    """Return the error for a file that was not closed cleanly and has no WAL."""
    wal = beside(path, "-wal").name
    return refusal(
        path,
        f"it was not closed in order, and its {wal} is not there: the newest records are in that file",
        f"put {wal} back, or restore both from a copy. To go on from what is in {path.name}, make an empty {wal}",
    )


def missing_records(path: Path, end: int, noted: Position) -> JournalError:
    """Return the error for a file whose records end before the noted one."""
    note = beside(path, NOTE_SUFFIX).name
    return refusal(
        path,
        f"its records end with {end}, and {note} says that record {noted.number} was acknowledged: a {path.name}-wal "
        "was lost, or another file took its place",
        f"put the lost file back, or restore all of them from a copy. To go on from what is there, remove {note}",
    )
