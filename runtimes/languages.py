"""What making a bundle needs to know of a language: the names of its main file, and the files of Rota that go along.
PURE.

python_language.py and javascript_language.py have a constant `LANGUAGE` each; bundles.py has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Language(NamedTuple):
    """The language part of a bundle."""

    mains: tuple[str, ...]  # names of the main file of a folder; the first that is there is it
    boot_files: Callable[[], Mapping[str, bytes]]  # files of Rota for the guest, by path, all below `rota/`
    convert: Callable[[str, bytes], tuple[str, bytes]]  # path and content of an author's file, as the runtime takes it
    is_flow: Callable[[bytes], bool]  # of a main file as the runtime takes it: it has a `flow`, and no `agent`


def unchanged(path: str, data: bytes) -> tuple[str, bytes]:
    """Return a file as it is: the `convert` of a language whose runtime takes the author's files."""
    return path, data
