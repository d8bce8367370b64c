"""The tensors of a task as files, for programs that cannot call the host's own functions, as interpreters. PURE.

`/rota/tensors/N` is the data of the task's tensor N and cannot be changed. `/rota/tensors/new` becomes a tensor when it
is closed, with the next index: it holds a MessagePack array [dtype, [length, ...]] and then the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

import msgpack

from rota.wasi.costs import BYTE_FUEL
from rota.wasi.errno import EINVAL, EIO, ENOSPC, Refusal
from rota.wasi.files import SHARED_TIME_NS, FileNode, FileSystem, FolderNode, Node
from rota.wasi.guest_access import GuestAccess

FOLDER: Final = "rota"
NAME: Final = "tensors"
NEW: Final = "new"
HEAD_BYTES_MAX: Final = 1 << 10  # of dtype and shape
TENSORS_MAX: Final = 1 << 20  # above every index: in a call the tensors of all its messages count

_INODE: Final = 1 << 31  # above those of shared files, below those of the task's own
_NO_ROOM: Final = -28  # of `TensorSource.make`, as of `rota.tensor_new`


class TensorSource(Protocol):
    """The tensors of the running task."""

    def __len__(self) -> int: ...

    def open(self, index: int) -> memoryview | None:
        """Return the data of a tensor; None if this host cannot, and then the task cannot end well."""
        ...

    def make(self, dtype: str, shape: tuple[int, ...], data: bytes) -> int:
        """Make a tensor and return its index, or a number below 0: why not."""
        ...


class TensorFolder(FolderNode):
    """The folder. A tensor gets a node when it is first met; what the program makes in it is as in any other."""

    __slots__ = ("_nodes", "_tensors")

    def __init__(self, parent_inode: int, tensors: TensorSource) -> None:
        super().__init__(_INODE, parent_inode, None, SHARED_TIME_NS)
        self._tensors = tensors
        self._nodes: dict[int, FileNode] = {}
        self._next = TENSORS_MAX  # entry numbers below are those of tensors

    def forget(self) -> None:
        """Forget the nodes of tensors, since a call's next message has others. Files that are open stay as they are."""
        self._nodes.clear()

    @property
    def is_empty(self) -> bool:
        return False

    def has_shared(self, name: str) -> bool:
        return self._index(name) is not None

    def get(self, name: str) -> Node | None:
        index = self._index(name)
        if index is None:
            return super().get(name)
        node = self._nodes.get(index)
        if node is None:
            data = self._tensors.open(index)
            if data is None:
                raise Refusal(EIO)
            node = self._nodes[index] = FileNode(_INODE + 1 + index, data, SHARED_TIME_NS)
        return node

    def entries(self) -> Iterator[tuple[int, str]]:
        for index in range(len(self._tensors)):
            yield index, str(index)
        yield from super().entries()

    def closed(self, guest: GuestAccess, files: FileSystem, node: FileNode) -> None:
        """Make a tensor of a file that was closed, if it is the one for that."""
        if node.opens or self._own.get(NEW) is not node:
            return
        guest.charge(node.size * BYTE_FUEL)
        content = bytes(node.data)
        files.remove(self, NEW, node)
        made = self._make(content)
        if made < 0:
            raise Refusal(ENOSPC if made == _NO_ROOM else EINVAL)

    def _make(self, content: bytes) -> int:
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=HEAD_BYTES_MAX)
        unpacker.feed(content[:HEAD_BYTES_MAX])
        try:
            dtype, shape = unpacker.unpack()
            size = unpacker.tell()
        except (ValueError, TypeError, msgpack.UnpackException):
            raise Refusal(EINVAL) from None
        if type(dtype) is not str or type(shape) is not list or any(type(side) is not int for side in shape):
            raise Refusal(EINVAL)
        return self._tensors.make(dtype, tuple(shape), content[size:])

    def _index(self, name: str) -> int | None:
        """Return the index of a tensor by its file's name; None for other names."""
        if not name.isascii() or not name.isdecimal() or len(name) > len(str(TENSORS_MAX)):
            return None
        index = int(name)
        return index if index < len(self._tensors) and str(index) == name else None


def tensor_folder(root: FolderNode, tensors: TensorSource) -> TensorFolder | None:
    """Add the folder of the tensors to a task's files, and return it.

    None if the program has no folder `rota`, as sources do, and the task no tensors: then nobody looks for it.
    """
    parent = root.get(FOLDER)
    if parent is None and len(tensors):
        parent = FolderNode(_INODE - 1, root.inode, None, SHARED_TIME_NS)
        root.put(FOLDER, parent)
    if not isinstance(parent, FolderNode):
        return None
    folder = TensorFolder(parent.inode, tensors)
    parent.put(NAME, folder)
    return folder
