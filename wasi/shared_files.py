"""The read-only files of a program, made once and shared by all its tasks. PURE.

A task sees them below `/`, under files of its own (files.py). Nothing here changes after it was made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final


class SharedFile:
    """A file's content and its inode number."""

    __slots__ = ("data", "inode")

    def __init__(self, inode: int, data: bytes) -> None:
        self.inode = inode
        self.data = data


class SharedDevice:
    """A name in the folder `dev` for a stream: one of the process's own, `NULL` or `RANDOM`."""

    __slots__ = ("inode", "stream")

    def __init__(self, inode: int, stream: int) -> None:
        self.inode = inode
        self.stream = stream


class SharedFolder:
    """Entries by name, in the order of the paths that made them."""

    __slots__ = ("entries", "inode")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.entries: dict[str, SharedDevice | SharedFile | SharedFolder] = {}


NULL, RANDOM = 3, 4  # behind the standard streams: nothing, and the task's chance
DEVICES: Final = (("stdin", 0), ("stdout", 1), ("stderr", 2), ("null", NULL), ("random", RANDOM), ("urandom", RANDOM))
_DEV: Final = "dev"
_TMP: Final = "tmp"  # an empty folder, where programs expect that they can write


def shared_folder(files: Iterable[tuple[str, bytes]]) -> SharedFolder:
    """Return the root of a tree of files, given by path without a leading slash; no path is a folder and a file.

    The devices and an empty `tmp` are in it, too, unless files have their names.
    """
    root, dev = SharedFolder(1), SharedFolder(2)
    dev.entries.update({name: SharedDevice(3 + place, stream) for place, (name, stream) in enumerate(DEVICES)})
    root.entries[_DEV] = dev
    inode = 3 + len(DEVICES)
    root.entries[_TMP] = SharedFolder(inode)
    for path, data in sorted(files):
        *folders, name = path.split("/")
        folder = root
        for part in folders:
            inside = folder.entries.get(part)
            if not isinstance(inside, SharedFolder):  # nothing yet, or a device
                inode += 1
                inside = folder.entries[part] = SharedFolder(inode)
            folder = inside
        inode += 1
        folder.entries[name] = SharedFile(inode, data)
    return root


NO_FILES: Final = shared_folder(())
