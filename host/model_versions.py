"""Which model a version is, from its manifest: for clients, which know neither ONNX nor the worker's repository.

docs/MODELS.md describes the layout; gpu_worker/repository.py writes it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from rota.common.errors import CodeError

MANIFEST_FILE: Final = "rota-manifest.json"


def check_version(models: Path, name: str, digest: bytes) -> None:
    """Check that a name such as `digits@2` is given to the model that it names, if that version is in `models`.

    Raises `CodeError` if it is another one. A name without a version can be given to any model.
    """
    base, at, version = name.partition("@")
    if not at:
        return
    try:
        found = bytes.fromhex(
            json.loads((models / base / version / MANIFEST_FILE).read_text(encoding="utf-8"))["digest"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return  # the model is on another host, or a worker will say what is wrong with it
    if found != digest:
        raise CodeError(
            f"{name} is the model {found.hex()[:16]}, not {digest.hex()[:16]}: a name with a version always means that "
            f"version; bind {base} instead, or name the version that has this digest"
        )
