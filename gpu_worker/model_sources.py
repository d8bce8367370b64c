"""The files that make a model, where a user has them: a folder with `model.onnx`, or one ONNX file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blake3 import blake3

from rota.common.errors import CodeError
from rota.gpu_worker.model_check import MODEL_FILE
from rota.host.files import regular_opener
from rota.host.model_versions import MANIFEST_FILE

_CHUNK_BYTES: Final = 1 << 20


def source_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files to copy with their path in the model, sorted by the bytes of that path."""
    if path.is_file():
        yield MODEL_FILE, path
        return
    if not path.is_dir():
        raise CodeError(f"{path} is neither a file nor a folder")
    found = {}
    root = path.resolve()
    for child in path.rglob("*"):
        relative = child.relative_to(path)
        if any(part.startswith(".") for part in relative.parts) or str(relative) == MANIFEST_FILE:
            continue
        if not relative.as_posix().isprintable():
            raise CodeError(f"{child!r} has a name that is not plain text; rename the file")
        if child.is_file():
            found[relative.as_posix()] = _own_file(child, root)
        elif not child.is_dir() or child.is_symlink():
            raise CodeError(f"{child} is neither a file nor a folder of its own; a model holds plain files only")
    if MODEL_FILE not in found:
        raise CodeError(f"{path} has no {MODEL_FILE}; name the model's main file so")
    for relative_path in sorted(found, key=os.fsencode):
        yield relative_path, found[relative_path]


def _own_file(child: Path, root: Path) -> Path:
    """Return the file itself. It may be linked to within the model's folder, but must not be outside of it."""
    real = child.resolve()
    if not real.is_relative_to(root):
        raise CodeError(f"{child} is a link to {real}, which is outside of {root}: put a copy there (`cp -L`)")
    return real


def copy_file(source: Path, folder: Path, relative: str) -> tuple[int, bytes]:
    """Copy a file to its place in a model's folder, read-only and on the disk; return its size and digest.

    Raises `CodeError` if it cannot be copied.
    """
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher = blake3()
    size_bytes = 0
    try:
        with open(source, "rb") as reader, open(target, "wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                hasher.update(chunk)
                writer.write(chunk)
                size_bytes += len(chunk)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise CodeError(f"{source} cannot be copied to {target}: {error.strerror}") from None
    target.chmod(0o444)
    return size_bytes, hasher.digest()


def measure(path: Path) -> tuple[int, bytes]:
    """Return the size and digest of a file. Raises `OSError` if it cannot be read."""
    hasher = blake3()
    size_bytes = 0
    with open(path, "rb", opener=regular_opener) as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            hasher.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, hasher.digest()
