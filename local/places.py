"""The folders of a lane, temporary or kept, and the cache of compiled code.

Compiled code is kept for the life of the process in a private folder, so that a test suite compiles each module once;
with ROTA_CACHE set, in that folder, for other processes too. The cache can be deleted, and nothing in it is trusted
without its MAC (cpu_worker/compiler.py).
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Final

from rota.common.errors import ConfigError
from rota.engine.executors import Folders
from rota.host.endpoints import RunFolder

CACHE_VARIABLE: Final = "ROTA_CACHE"

_PRIVATE: Final = 0o700

_lock: Final = threading.Lock()
_artefacts: dict[int, Path] = {}  # of this process, by its id: a forked child makes its own


class LanePlace:
    """The folders of one lane."""

    def __init__(self, keep: Path | None, models: Path | None, tensors: Path | None) -> None:
        """Make the folders. Raises `ConfigError` for one that does not exist or cannot be made."""
        for what, folder in (("models", models), ("tensors", tensors)):
            if folder is not None and not folder.is_dir():
                raise ConfigError(
                    f"{what}={folder}: there is no such folder; make it, or leave it out", path=str(folder)
                )
        self._removed_at_end = keep is None
        self.run = RunFolder(Path(tempfile.mkdtemp(prefix="rota-local-")) if keep is None else _made(keep))
        if self.run.journal.exists():
            raise ConfigError(f"{keep} holds a run already: name another folder, or remove that one", path=str(keep))
        for folder in (self.run.modules, self.run.models, self.run.tensors):
            folder.mkdir(mode=_PRIVATE, exist_ok=True)
        self.models = self.run.models if models is None else models.absolute()
        self.tensors = self.run.tensors if tensors is None else tensors.absolute()

    def folders(self) -> Folders:
        """Return the folders for the executors."""
        return Folders(
            modules=self.run.modules,
            artefacts=artefacts_folder(),
            models=self.models,
            tensors=self.tensors,
            conversations=self.run.conversations,
        )

    def close(self) -> None:
        """Remove the folder, unless it is kept."""
        if self._removed_at_end:
            shutil.rmtree(self.run.root, ignore_errors=True)  # on Windows a mapped tensor stays until it is unmapped


def artefacts_folder() -> Path:
    """Return the folder of compiled code."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return _made(Path(named) / "artefacts")
    with _lock:
        folder = _artefacts.get(os.getpid())
        if folder is None or not folder.is_dir():
            folder = _artefacts[os.getpid()] = Path(tempfile.mkdtemp(prefix="rota-code-"))
            atexit.register(_remove, os.getpid(), folder)
        return folder


def _remove(process: int, folder: Path) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; name another one", path=str(folder)) from error
    return folder
