"""The file system of one task: files, folders and links in memory. PURE.

The program's shared files are there from the start and cannot be changed or removed; everything else is the task's own
and may grow until it and the guest's memory together reach the task's `memory_bytes`. Nodes know no parent: a path is
followed from a folder downwards, and `..` goes back along the way that was taken, never above the folder where it
began. So a descriptor of a folder gives no way out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Union

from rota.wasi.costs import ENTRY_FUEL, NAME_FUEL, NODE_BYTES
from rota.wasi.errno import (
    EEXIST,
    EINVAL,
    ELOOP,
    ENAMETOOLONG,
    ENOENT,
    ENOSPC,
    ENOTCAPABLE,
    ENOTDIR,
    EROFS,
    Refusal,
)
from rota.wasi.guest_access import GuestAccess
from rota.wasi.shared_files import SharedFile, SharedFolder

NAME_BYTES_MAX: Final = 255
LINKS_FOLLOWED_MAX: Final = 40
SHARED_TIME_NS: Final = 315_532_800 * 10**9  # 1980-01-01: the earliest that every archive format can hold

CHARACTER_DEVICE: Final = 2
REGULAR_FILE: Final = 4
DIRECTORY: Final = 3
SYMBOLIC_LINK: Final = 7


class Times:
    """The three time stamps of a node, in nanoseconds."""

    __slots__ = ("accessed", "changed", "modified")

    def __init__(self, now_ns: int) -> None:
        self.accessed = self.modified = self.changed = now_ns


class FileNode:
    """A file. `data` is a `bytearray` if it is the task's own; nothing else may be changed."""

    __slots__ = ("data", "inode", "links", "opens", "times")
    filetype: Final = REGULAR_FILE

    def __init__(self, inode: int, data: bytes | bytearray | memoryview, now_ns: int) -> None:
        self.inode = inode
        self.data = data
        self.links = 1
        self.opens = 0  # descriptors
        self.times = Times(now_ns)

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def is_shared(self) -> bool:
        return type(self.data) is not bytearray


class LinkNode:
    """A symbolic link."""

    __slots__ = ("inode", "links", "target", "times")
    filetype: Final = SYMBOLIC_LINK

    def __init__(self, inode: int, target: str, now_ns: int) -> None:
        self.inode = inode
        self.target = target
        self.links = 1
        self.times = Times(now_ns)

    @property
    def size(self) -> int:
        return len(self.target.encode())


class DeviceNode:
    """A name for a stream of the process."""

    __slots__ = ("inode", "links", "stream", "times")
    filetype: Final = CHARACTER_DEVICE
    size: Final = 0

    def __init__(self, inode: int, stream: int) -> None:
        self.inode = inode
        self.stream = stream
        self.links = 1
        self.times = Times(SHARED_TIME_NS)


class FolderNode:
    """A folder: entries of its own, above those of a shared folder. Shared nodes get a node here when they are met.

    Each entry has a number, by which `fd_readdir` continues: the shared ones by their place, then the others as they
    come.
    """

    __slots__ = ("_next", "_numbers", "_own", "inode", "links", "parent_inode", "removed", "shared", "times")
    filetype: Final = DIRECTORY
    size: Final = 0

    def __init__(self, inode: int, parent_inode: int, shared: SharedFolder | None, now_ns: int) -> None:
        self.inode = inode
        self.parent_inode = parent_inode
        self.shared = shared
        self.links = 1
        self.removed = False
        self.times = Times(now_ns)
        self._own: dict[str, Node] = {}
        self._numbers: dict[str, int] = {}  # of entries that are not shared
        self._next = len(shared.entries) if shared is not None else 0

    @property
    def is_empty(self) -> bool:
        return not self._numbers and not (self.shared is not None and self.shared.entries)

    def has_shared(self, name: str) -> bool:
        """Whether this entry came with the program."""
        return self.shared is not None and name in self.shared.entries

    def get(self, name: str) -> Node | None:
        node = self._own.get(name)
        if node is None and self.shared is not None:
            entry = self.shared.entries.get(name)
            if isinstance(entry, SharedFile):
                node = self._own[name] = FileNode(entry.inode, entry.data, SHARED_TIME_NS)
            elif isinstance(entry, SharedFolder):
                node = self._own[name] = FolderNode(entry.inode, self.inode, entry, SHARED_TIME_NS)
            elif entry is not None:
                node = self._own[name] = DeviceNode(entry.inode, entry.stream)
        return node

    def put(self, name: str, node: Node) -> None:
        """Add or replace an entry that is not shared."""
        assert not self.has_shared(name)
        if name not in self._numbers:
            self._numbers[name] = self._next
            self._next += 1
        self._own[name] = node
        if isinstance(node, FolderNode):
            node.parent_inode = self.inode

    def take(self, name: str) -> None:
        """Remove an entry that is not shared."""
        del self._own[name], self._numbers[name]

    def entries(self) -> Iterator[tuple[int, str]]:
        """Yield numbers and names, numbers rising."""
        if self.shared is not None:
            yield from enumerate(self.shared.entries)
        for name, number in self._numbers.items():
            yield number, name

    def own_folders(self) -> Iterator[FolderNode]:
        for node in self._own.values():
            if isinstance(node, FolderNode):
                yield node


Node = Union[DeviceNode, FileNode, FolderNode, LinkNode]  # noqa: UP007 - a runtime alias


def is_shared(node: Node) -> bool:
    """Return whether a file, folder or device came with the program."""
    if isinstance(node, FileNode):
        return node.is_shared
    return isinstance(node, DeviceNode) or (isinstance(node, FolderNode) and node.shared is not None)


class PathEnd(NamedTuple):
    """Where a path leads: an entry `name` of `folder`, and what is there (None: nothing). `folder` is None if the path
    names the folder where it began, or ends in `..`. `as_folder`: the path says that it is a folder (`name/`).
    """

    folder: FolderNode | None
    name: str
    node: Node | None
    as_folder: bool


class FileSystem:
    """The tree, its inode numbers, and what it counts against the task's memory."""

    def __init__(self, shared: SharedFolder, memory_bytes: int, now: Callable[[], int]) -> None:
        """`now` returns the time in nanoseconds."""
        self.root = FolderNode(shared.inode, shared.inode, shared, SHARED_TIME_NS)
        self._now = now
        self._memory_bytes = memory_bytes
        self.used_bytes = 0  # of the task's own files
        self._inode = 1 << 32  # above those of shared files

    def resolve(self, guest: GuestAccess, start: FolderNode, path: str, *, follow: bool) -> PathEnd:
        """Follow a path from a folder. `follow`: also a link at its end."""
        pending, as_folder = _parts(path)
        way = [start]
        followed = 0
        while pending:
            guest.charge(NAME_FUEL)
            name = pending.pop()
            if name == "..":
                if len(way) == 1:
                    raise Refusal(ENOTCAPABLE)
                way.pop()
                continue
            if len(name.encode()) > NAME_BYTES_MAX:
                raise Refusal(ENAMETOOLONG)
            node = way[-1].get(name)
            if isinstance(node, LinkNode) and (pending or follow or as_folder):
                followed += 1
                if followed > LINKS_FOLLOWED_MAX:
                    raise Refusal(ELOOP)
                more, ends_as_folder = _parts(node.target)
                as_folder = as_folder or (ends_as_folder and not pending)
                pending += more
                continue
            if not pending:
                return PathEnd(way[-1], name, node, as_folder)
            if node is None:
                raise Refusal(ENOENT)
            if not isinstance(node, FolderNode):
                raise Refusal(ENOTDIR)
            way.append(node)
        return PathEnd(None, "", way[-1], True)

    def new_place(self, place: PathEnd) -> FolderNode:
        """Return the folder in which something new can be made at this place."""
        if place.node is not None or place.folder is None:
            raise Refusal(EEXIST)
        if place.folder.removed:
            raise Refusal(ENOENT)
        return place.folder

    def own_place(self, place: PathEnd) -> tuple[FolderNode, Node]:
        """Return folder and node of an entry that can be removed or moved."""
        if place.folder is None:
            raise Refusal(EINVAL)
        if place.node is None:
            raise Refusal(ENOENT)
        if place.folder.has_shared(place.name):
            raise Refusal(EROFS)
        return place.folder, place.node

    def new_file(self, guest: GuestAccess, folder: FolderNode, name: str) -> FileNode:
        self._take_room(guest, NODE_BYTES + len(name))
        node = FileNode(self._new_inode(), bytearray(), self._now())
        self._put(folder, name, node)
        return node

    def new_folder(self, guest: GuestAccess, folder: FolderNode, name: str) -> None:
        self._take_room(guest, NODE_BYTES + len(name))
        self._put(folder, name, FolderNode(self._new_inode(), folder.inode, None, self._now()))

    def new_symlink(self, guest: GuestAccess, folder: FolderNode, name: str, target: str) -> None:
        self._take_room(guest, NODE_BYTES + len(name) + len(target))
        self._put(folder, name, LinkNode(self._new_inode(), target, self._now()))

    def link(self, guest: GuestAccess, node: FileNode | LinkNode, folder: FolderNode, name: str) -> None:
        self._take_room(guest, NODE_BYTES + len(name))
        node.links += 1
        node.times.changed = self._now()
        self._put(folder, name, node)

    def remove(self, folder: FolderNode, name: str, node: Node) -> None:
        """Remove an entry; a folder must be empty."""
        folder.take(name)
        folder.times.modified = folder.times.changed = self._now()
        self.used_bytes -= NODE_BYTES + len(name)
        node.links -= 1
        node.times.changed = self._now()
        if isinstance(node, FolderNode):
            node.removed = True
        elif isinstance(node, LinkNode):
            self.used_bytes -= len(node.target) if not node.links else 0
        elif isinstance(node, FileNode):
            self.release(node)

    def move(self, folder: FolderNode, name: str, node: Node, to: FolderNode, to_name: str) -> None:
        """Move an entry to a free name."""
        folder.take(name)
        self.used_bytes += len(to_name) - len(name)
        folder.times.modified = folder.times.changed = self._now()
        self._put(to, to_name, node)

    def is_inside(self, guest: GuestAccess, folder: FolderNode, within: FolderNode) -> bool:
        """Return whether `folder` is `within` or below it."""
        waiting = [within]
        while waiting:
            guest.charge(ENTRY_FUEL)
            found = waiting.pop()
            if found is folder:
                return True
            for inside in found.own_folders():
                guest.charge(ENTRY_FUEL)
                waiting.append(inside)
        return False

    def resize(self, guest: GuestAccess, node: FileNode, size: int) -> None:
        """Cut a file, or grow it with zeros, for which the caller has charged."""
        data = node.data
        if type(data) is not bytearray:
            raise Refusal(EROFS)
        if size > len(data):
            self._take_room(guest, size - len(data))
            data.extend(bytes(size - len(data)))
        else:
            self.used_bytes -= len(data) - size
            del data[size:]
        node.times.modified = node.times.changed = self._now()

    def release(self, node: FileNode) -> None:
        """Drop the content of a file that has neither a name nor a descriptor any more."""
        if not node.links and not node.opens and type(node.data) is bytearray:
            self.used_bytes -= len(node.data)
            node.data = bytearray()

    def room(self, guest: GuestAccess) -> int:
        """Return how many bytes files may grow now."""
        return self._memory_bytes - self.used_bytes - guest.memory_bytes()

    def _take_room(self, guest: GuestAccess, size: int) -> None:
        if size > self.room(guest):
            raise Refusal(ENOSPC)
        self.used_bytes += size

    def _put(self, folder: FolderNode, name: str, node: Node) -> None:
        folder.put(name, node)
        folder.times.modified = folder.times.changed = self._now()

    def _new_inode(self) -> int:
        self._inode += 1
        return self._inode


def _parts(path: str) -> tuple[list[str], bool]:
    """Return a path's names in reverse, and whether it says that it names a folder."""
    if path.startswith("/"):
        raise Refusal(ENOTCAPABLE)
    if not path:
        raise Refusal(ENOENT)
    parts = path.split("/")
    return [part for part in reversed(parts) if part not in ("", ".")], parts[-1] in ("", ".", "..")
