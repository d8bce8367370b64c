"""The language part of bundles of Python: the main file of a folder, and the files of Rota that go along."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rota.runtimes.languages import Language, unchanged
from rota.sdk.files import folder

_HOST_ONLY: Final = ("testing.py",)


def _boot_files() -> Mapping[str, bytes]:
    """Return the package `rota.agent`, as it is imported in the sandbox."""
    package = folder("python") / "rota" / "agent"
    return {
        f"rota/agent/{path.name}": path.read_bytes()
        for path in sorted(package.glob("*.py"))
        if path.name not in _HOST_ONLY
    }


LANGUAGE: Final = Language(mains=("agent.py", "main.py", "__main__.py"), boot_files=_boot_files, convert=unchanged)
