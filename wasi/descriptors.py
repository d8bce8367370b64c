"""What a task has open: streams, files and folders, by number. PURE."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final, TypeVar, Union

from rota.wasi.errno import EBADF, EMFILE, ENOTCAPABLE, ENOTDIR, Refusal
from rota.wasi.files import FileNode, FolderNode

DESCRIPTORS_MAX: Final = 1_024

# Rights: bits of preview 1. Only reading and writing are kept apart; the others are there because programs ask for
# them, and can be given up.
FD_DATASYNC: Final = 1 << 0
FD_READ: Final = 1 << 1
FD_SEEK: Final = 1 << 2
FD_TELL: Final = 1 << 5
FD_WRITE: Final = 1 << 6
FD_ALLOCATE: Final = 1 << 8
PATH_OPEN: Final = 1 << 13
FD_READDIR: Final = 1 << 14
PATH_FILESTAT_SET_SIZE: Final = 1 << 19
FD_FILESTAT_SET_SIZE: Final = 1 << 22
_ALL: Final = (1 << 28) - 1  # all but those of sockets
_PATHS: Final = 0x071F_FE00  # what is done to names in folders
FILE_RIGHTS: Final = _ALL & ~_PATHS
FOLDER_RIGHTS: Final = _PATHS | 0x00A0_0099  # and sync, flags, advice, statistics and times of the folder itself
STREAM_RIGHTS: Final = (1 << 3) | (1 << 4) | (1 << 21) | (1 << 27)

T = TypeVar("T")


class StandardStream:
    """Standard input, output or error, as `number` says, whatever number its descriptor gets later.

    `rights`: FD_READ or FD_WRITE.
    """

    __slots__ = ("flags", "inheriting", "number", "rights")
    filetype: Final = 0  # unknown, as for a pipe: a program may not take it for a terminal

    def __init__(self, number: int, rights: int) -> None:
        self.number = number
        self.rights = rights | STREAM_RIGHTS
        self.inheriting = 0
        self.flags = 0


class OpenFile:
    """A file with a position."""

    __slots__ = ("flags", "inheriting", "node", "position", "rights")
    filetype: Final = FileNode.filetype

    def __init__(self, node: FileNode, rights: int, flags: int) -> None:
        self.node = node
        self.rights = rights & FILE_RIGHTS
        self.inheriting = 0
        self.flags = flags
        self.position = 0


class OpenFolder:
    """A folder. `name`: that of a preopened one."""

    __slots__ = ("flags", "inheriting", "name", "node", "rights")
    filetype: Final = FolderNode.filetype

    def __init__(self, node: FolderNode, rights: int, inheriting: int, *, flags: int, name: bytes | None) -> None:
        self.node = node
        self.rights = rights & FOLDER_RIGHTS
        self.inheriting = inheriting & (FILE_RIGHTS | FOLDER_RIGHTS)
        self.flags = flags
        self.name = name


Descriptor = Union[StandardStream, OpenFile, OpenFolder]  # noqa: UP007 - a runtime alias


class Descriptors:
    """The table. A new descriptor gets the lowest free number."""

    def __init__(self, first: list[Descriptor]) -> None:
        self._open: dict[int, Descriptor] = dict(enumerate(first))
        self._free: list[int] = []
        self._next = len(first)

    def get(self, number: int) -> Descriptor:
        found = self._open.get(number)
        if found is None:
            raise Refusal(EBADF)
        return found

    def file(self, number: int) -> OpenFile:
        found = self.get(number)
        if not isinstance(found, OpenFile):
            raise Refusal(EBADF)
        return found

    def folder(self, number: int, right: int = 0) -> OpenFolder:
        """Return a folder, which has this right."""
        found = self.get(number)
        if not isinstance(found, OpenFolder):
            raise Refusal(ENOTDIR)
        if right and not found.rights & right:
            raise Refusal(ENOTCAPABLE)
        return found

    def add(self, descriptor: Descriptor) -> int:
        if len(self._open) >= DESCRIPTORS_MAX:
            raise Refusal(EMFILE)
        if self._free:
            number = heappop(self._free)
        else:
            number = self._next
            self._next += 1
        self._open[number] = descriptor
        return number

    def take(self, number: int) -> Descriptor:
        found = self.get(number)
        del self._open[number]
        heappush(self._free, number)
        return found

    def move(self, number: int, to: int) -> Descriptor | None:
        """Give a descriptor the number of another, which is returned; None if it is itself."""
        found, replaced = self.get(number), self.get(to)
        if number == to:
            return None
        self.take(number)
        self._open[to] = found
        return replaced

    def is_full(self) -> bool:
        return len(self._open) >= DESCRIPTORS_MAX
