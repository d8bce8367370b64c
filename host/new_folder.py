"""Builds a folder under a temporary name and renames it, so that a half-made one is never seen."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rota.common.errors import ConfigError
from rota.host.files import sync_folder


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that becomes `folder` at the end of the block; if the block raises, nothing is left.

    Raises `ConfigError` unless the folder is new or empty.
    """
    folder = Path(os.path.abspath(folder))
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise ConfigError(f"{folder} is there already: name a new folder", path=str(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.draft-", dir=folder.parent))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; name another", path=str(folder)) from error
    try:
        yield draft
        if folder.exists():
            folder.rmdir()  # it is empty, and Windows does not rename over it
        os.rename(draft, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # already renamed unless something failed
