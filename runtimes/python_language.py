"""The language part of bundles of Python: the main file of a folder, and the files of Rota that go along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rota.runtimes.languages import Language, unchanged


def _boot_files() -> Mapping[str, bytes]:
    return {}


LANGUAGE: Final = Language(mains=("agent.py", "main.py", "__main__.py"), boot_files=_boot_files, convert=unchanged)
