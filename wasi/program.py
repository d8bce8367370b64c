"""What a deploy fixes for all tasks of a program: arguments, environment and files. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from rota.wasi.shared_files import NO_FILES, SharedFolder, shared_folder

PROGRAM_NAME: Final = "program"  # the first argument of every program, where a shell would put its name


class Program(NamedTuple):
    """One per deployed code; tasks share it and change nothing in it."""

    args: tuple[bytes, ...] = (PROGRAM_NAME.encode(),)
    env: tuple[bytes, ...] = ()
    files: SharedFolder = NO_FILES


NO_PROGRAM: Final = Program()


def program_of(args: Iterable[str], env: Iterable[tuple[str, str]], files: Iterable[tuple[str, bytes]]) -> Program:
    """Return the program of a bundle. `files`: paths without a leading slash, no file also a folder."""
    return Program(
        (PROGRAM_NAME.encode(), *[argument.encode() for argument in args]),
        tuple([f"{name}={value}".encode() for name, value in env]),
        shared_folder(files),
    )
