"""Files in memory: written once, then sealed, for libraries and processes that map them instead of making copies.

Linux has such files (memfd_create) and lets nobody, not even their owner, change one that is sealed. Elsewhere it is a
temporary file, which a seal does not protect.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator
from typing import Any, Final

IS_LINUX: Final = sys.platform == "linux"
_PIECE_BYTES: Final = 1 << 18


class MemoryFile:
    """Gone when nobody has it open or mapped. `path`: its name in this process and those that inherit `descriptors`."""

    def __init__(self) -> None:
        """Make an empty file. Raises `OSError` if the host has no room."""
        if IS_LINUX:
            descriptor = os.memfd_create("rota", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._file: Any = open(descriptor, "r+b", buffering=0)  # noqa: SIM115, closed with this object
            self.path = f"/proc/self/fd/{descriptor}"
            self.descriptors: tuple[int, ...] = (descriptor,)
        else:
            import tempfile  # slow to import, and few hosts need it

            self._file = tempfile.NamedTemporaryFile(buffering=0)  # noqa: SIM115
            self.path, self.descriptors = self._file.name, ()
        weakref.finalize(self, self._file.close)

    def fileno(self) -> int:
        descriptor: int = self._file.fileno()
        return descriptor

    def size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add data. Raises `OSError` if the host has no room."""
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def seal(self) -> None:
        """Allow no change from now on."""
        if IS_LINUX:
            import fcntl

            every = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fileno(), fcntl.F_ADD_SEALS, every)

    def pieces(self) -> Iterator[memoryview]:
        """Yield the content in pieces, each valid until the next."""
        piece = memoryview(bytearray(_PIECE_BYTES))
        self._file.seek(0)
        while size := self._file.readinto(piece):
            yield piece[:size]

    def read(self, start: int, size: int) -> bytes:
        """Return up to `size` bytes from `start` on."""
        self._file.seek(start)
        data: bytes = self._file.read(size)
        return data
