"""Finds and checks the files of a model by its digest, for runs/ and local/.

The repository code is the GPU worker's and needs no ONNX Runtime. docs/MODELS.md describes the layout.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rota.gpu_worker.repository import Repository
from rota.host.model_versions import MANIFEST_FILE


class ModelFiles(NamedTuple):
    """One version of a model: `NAME/VERSION`, and its files below that, the manifest included."""

    place: str
    files: tuple[str, ...]
    folder: Path


def find_model(models: Path, digest: bytes) -> ModelFiles | None:
    """Return the files of the model with this digest; None if the folder has no such model.

    Raises `CodeError` if one of its files has changed since it was added.
    """
    repository = Repository(models)
    entry = next((entry for entry in repository.list() if entry.digest == digest), None)
    if entry is None:
        return None
    entry.check()
    return ModelFiles(
        f"{entry.name}/{entry.version}", (*(file.path for file in entry.files), MANIFEST_FILE), entry.folder
    )
