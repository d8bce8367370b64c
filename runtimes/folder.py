"""The runtimes folder: fetched interpreters as files named by their digest, for all runs of a user.

It is `ROTA_RUNTIMES`, else `rota/runtimes` in the user's folder for caches. Everything in it can be fetched again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from rota.common.digests import digest
from rota.common.errors import ConfigError
from rota.runtimes.catalog import Runtime

FOLDER_VARIABLE: Final = "ROTA_RUNTIMES"


def runtimes_folder() -> Path:
    """Return the folder; it need not be there yet."""
    named = os.environ.get(FOLDER_VARIABLE)
    return Path(named) if named else _cache_folder() / "rota" / "runtimes"


def runtime_path(runtime: Runtime) -> Path:
    """Return where a runtime is once it is fetched."""
    return runtimes_folder() / f"{runtime.digest.hex()}.wasm"


def runtime_bytes(runtime: Runtime) -> bytes:
    """Return the module of a runtime. Raises `ConfigError` if it was not fetched, or is damaged."""
    path = runtime_path(runtime)
    remedy = f"`rota runtime fetch {runtime.name}`"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"the runtime {runtime.name} ({runtime.title}) is not fetched yet: {remedy}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; remove it and {remedy}") from None
    if digest(data) != runtime.digest:
        raise ConfigError(f"{path} is damaged: its content has another digest; remove it and {remedy}")
    return data


def is_fetched(runtime: Runtime) -> bool:
    """Return whether the file of a runtime is there and has its size."""
    try:
        return runtime_path(runtime).stat().st_size == runtime.size_bytes
    except OSError:
        return False


def _cache_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
