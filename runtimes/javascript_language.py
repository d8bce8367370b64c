"""The language part of bundles of JavaScript: the main file of a folder, and the files of Rota that go along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rota.runtimes.languages import Language, unchanged


def _boot_files() -> Mapping[str, bytes]:
    return {}


_MAINS: Final = ("agent.js", "agent.mjs", "main.js", "index.js")
LANGUAGE: Final = Language(mains=_MAINS, boot_files=_boot_files, convert=unchanged)
