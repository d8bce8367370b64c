"""The files of certificates: `MODELS/.certificates/MODEL-DIGEST/CONDITIONS-DIGEST.json`.

A file appears complete, by a rename. Several processes may write the same one: they found the same. A damaged file
counts as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from rota.common.digests import digest_of
from rota.common.errors import CodeError
from rota.gpu_worker.certificate import Certificate, decode
from rota.host.files import regular_opener

FOLDER: Final = ".certificates"
CERTIFICATE_BYTES_MAX: Final = 16 << 20


def conditions_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions of a certificate: a whole fingerprint without the digest of its probe, as JSON holds it."""
    conditions: dict[str, Any] = json.loads(json.dumps({key: facts[key] for key in facts if key != "probe"}))
    return conditions


class CertificateStore:
    """The certificates of the models in one folder."""

    def __init__(self, models: Path) -> None:
        self._root = models / FOLDER

    def path(self, model: str, conditions: Mapping[str, Any]) -> Path:
        """Return where the certificate is, or would be. `model` is the model's digest in hex."""
        return self._root / model / f"{digest_of(json.dumps(conditions, sort_keys=True)).hex()}.json"

    def get(self, model: str, conditions: Mapping[str, Any]) -> Certificate | None:
        """Return the certificate of a model under these conditions, if there is a good one."""
        try:
            certificate, value = _read(self.path(model, conditions))
        except (CodeError, OSError):
            return None
        return certificate if (value["model"], value["conditions"]) == (model, conditions) else None

    def put(self, text: str) -> Path:
        """Write a certificate in its JSON form. Raises `CodeError` if it is none, `OSError` if it cannot be written."""
        _, value = decode(text)
        path = self.path(value["model"], value["conditions"])
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with open(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        return path

    def all_of(self, model: str) -> Iterator[tuple[Certificate, dict[str, Any]]]:
        """Yield the good certificates of a model with their JSON values, by name of file."""
        folder = self._root / model
        if folder.is_dir():
            for path in sorted(folder.glob("*.json")):
                with contextlib.suppress(CodeError, OSError):
                    yield _read(path)

    def remove(self, model: str) -> None:
        """Remove all certificates of a model; harmless if it has none."""
        shutil.rmtree(self._root / model, ignore_errors=True)


def _read(path: Path) -> tuple[Certificate, dict[str, Any]]:
    if path.stat().st_size > CERTIFICATE_BYTES_MAX:
        raise CodeError(f"{path} is larger than any certificate")
    try:
        with open(path, encoding="utf-8", opener=regular_opener) as file:
            return decode(file.read())
    except UnicodeDecodeError:
        raise CodeError(f"{path} is not UTF-8 text") from None
