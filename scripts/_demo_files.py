"""The demo's input: some files of a folder, as payloads for the agent `features`. Standard library only.

The choice is a function of the folder's content, so that digests of runs can be compared. The head of
examples/agents/features.c describes the payload; change both.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

BLOCK_BYTES = 4096  # read from each end of a file
_SHORT_BYTES = 8  # with fewer bytes left after the leading white space, the agent does not ask the model
_WHITESPACE = b"\t\n\v\f\r "

# Python writes into __pycache__ while the demo runs, and installs change the packages.
_SKIPPED_FOLDERS = ("__pycache__", "site-packages", "dist-packages")


class Sample(NamedTuple):
    """One file as it is sent: `head` and `tail` are its first and last BLOCK_BYTES; no tail if they are the same."""

    path: str
    size: int
    head: bytes
    tail: bytes | None

    @property
    def asks_the_model(self) -> bool:
        """Return whether the agent will ask the model, or decide by itself."""
        return len(self.head.lstrip(_WHITESPACE)) >= _SHORT_BYTES


class Samples(NamedTuple):
    """The chosen files, how many there are in all, and the unreadable ones with the reason."""

    samples: list[Sample]
    found: int
    skipped: list[str]


def read_samples(folder: Path, files_max: int) -> Samples:
    """Read at most `files_max` files, evenly spread over the sorted list of those below `folder`."""
    paths = _list_files(folder)
    count = min(files_max, len(paths))
    samples, skipped = [], []
    for place in range(count):
        path = paths[place * len(paths) // count]
        try:
            samples.append(_read(folder, path))
        except OSError as error:
            skipped.append(f"{path}: {error.strerror or error}")
    return Samples(samples, len(paths), skipped)


def _list_files(folder: Path) -> list[str]:
    """Return the paths of all plain files below a folder, relative to it, sorted. Links are not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith(".")]
        for name in names:
            path = os.path.join(parent, name)
            if stat.S_ISREG(os.lstat(path).st_mode):
                found.append(os.path.relpath(path, folder))
    return sorted(found, key=os.fsencode)


def _read(folder: Path, path: str) -> Sample:
    with open(folder / path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(BLOCK_BYTES)
        tail = None
        if size > BLOCK_BYTES:
            file.seek(size - BLOCK_BYTES)
            tail = file.read(BLOCK_BYTES)
    part = min(size, BLOCK_BYTES)
    if len(head) != part or (tail is not None and len(tail) != part):
        raise OSError(f"it changed while it was read, at {size} bytes")
    # A name need not be UTF-8, but payloads and output must be.
    name = os.fsencode(path).decode("utf-8", "replace").replace(os.sep, "/")
    return Sample(name, size, head, tail)
