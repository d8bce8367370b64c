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


class SharedFolder:
    """Entries by name, in the order of the paths that made them."""

    __slots__ = ("entries", "inode")

    def __init__(self, inode: int) -> None:
        self.inode = inode
        self.entries: dict[str, SharedFile | SharedFolder] = {}


NO_FILES: Final = SharedFolder(1)


def shared_folder(files: Iterable[tuple[str, bytes]]) -> SharedFolder:
    """Return the root of a tree of files, given by path without a leading slash; no path is a folder and a file."""
    root = SharedFolder(1)
    inode = 1
    for path, data in sorted(files):
        *folders, name = path.split("/")
        folder = root
        for part in folders:
            inside = folder.entries.get(part)
            if inside is None:
                inode += 1
                inside = folder.entries[part] = SharedFolder(inode)
            assert isinstance(inside, SharedFolder), "the bundle was checked"
            folder = inside
        inode += 1
        assert name not in folder.entries, "the bundle was checked"
        folder.entries[name] = SharedFile(inode, data)
    return root
