"""Where the files of the SDKs are, in a checkout and in an installed package.

Each language has a folder: `sdk/<language>/` with the library, `examples/` and `template/`. They are data to Python:
nothing in them is imported on the host except what docs/SDK.md names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rota.common.errors import ConfigError

_ROOT: Final = Path(__file__).resolve().parent


def languages() -> tuple[str, ...]:
    """Return the names of the languages that have an SDK here, in alphabetical order."""
    return tuple(sorted(path.parent.name for path in _ROOT.glob("*/template") if path.is_dir()))


def folder(language: str) -> Path:
    """Return the folder of one language's SDK. Raises `ConfigError` with the known names."""
    if language not in languages():
        raise ConfigError(f"there is no SDK for {language!r}: known are {', '.join(languages())}")
    return _ROOT / language
