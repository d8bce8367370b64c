"""Take the magika file-type model out of its PyPI wheel, without installing it. Usage: fetch_magika.py [FOLDER]

The wheel (magika 1.0.3, Apache-2.0, https://github.com/google/magika) depends on `onnxruntime`, which would overwrite
our `onnxruntime-gpu`; so it is downloaded and unpacked, but not installed. FOLDER (default `.cache/magika`) becomes a
model folder: `model.onnx` and `config.min.json` from the wheel, and `labels.json`, four parallel arrays that an agent
reads.

Standard library only, since this runs before the environment exists. The digests below pin the files; for a newer
magika, change version, digests and the feature rules of docs/MODELS.md together.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Final

VERSION: Final = "1.0.3"
DEFAULT_FOLDER: Final = Path(__file__).resolve().parent.parent / ".cache" / "magika"

# All platforms' wheels have the same model, so one is named and the download does not depend on the host.
WHEEL_TARGET: Final = (
    "--platform=manylinux_2_28_x86_64", "--implementation=py", "--abi=none", "--python-version=3.11",
    "--only-binary=:all:",
)  # fmt: skip

MODEL_MEMBER: Final = "magika/models/standard_v3_3/model.onnx"
CONFIG_MEMBER: Final = "magika/models/standard_v3_3/config.min.json"
TYPES_MEMBER: Final = "magika/config/content_types_kb.min.json"
SHA256: Final = {
    MODEL_MEMBER: "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
    CONFIG_MEMBER: "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
    TYPES_MEMBER: "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d",
}
LABELS_SHA256: Final = "d98e0ec25fb1c1c3efce28b0ae97b33ae71519775775360c2d8d20161a91172b"

NOT_FETCHED: Final = 3  # exit status: the package index could not be reached or has no such wheel
BAD_CONTENT: Final = 4  # exit status: the content does not match the pins above


class FetchError(Exception):
    """The model could not be fetched; `status` is the exit status of the script."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(arguments[0]) if arguments else DEFAULT_FOLDER
    try:
        print(fetch(folder))
    except FetchError as error:
        print(f"fetch_magika: {error}", file=sys.stderr)
        return error.status
    return 0


def fetch(folder: Path) -> Path:
    """Put the model files into `folder` and return it. Does nothing if they are there and intact."""
    if _is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".magika-", dir=folder.parent) as scratch:
        members = _read_members(_download(Path(scratch)))
        made = Path(scratch) / "model"
        made.mkdir()
        for name, data in _model_files(members).items():
            (made / name).write_bytes(data)
        # A rename cannot replace a folder with files; the old one is damaged or outdated, so remove it first.
        if folder.exists():
            shutil.rmtree(folder)
        os.rename(made, folder)
    return folder


def _is_complete(folder: Path) -> bool:
    wanted = {
        "model.onnx": SHA256[MODEL_MEMBER],
        "config.min.json": SHA256[CONFIG_MEMBER],
        "labels.json": LABELS_SHA256,
    }
    return all(
        (folder / name).is_file() and _sha256((folder / name).read_bytes()) == sha for name, sha in wanted.items()
    )


def _download(scratch: Path) -> Path:
    command = [
        _python_with_pip(), "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        *WHEEL_TARGET, f"magika=={VERSION}", "--dest", str(scratch),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("magika-*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip gave no wheel"]
        raise FetchError(NOT_FETCHED, f"pip could not download magika {VERSION}: {reason[0]}")
    return wheels[0]


def _python_with_pip() -> str:
    """Return this Python, or the base one if this environment has no pip."""
    if importlib.util.find_spec("pip") is None:
        return str(getattr(sys, "_base_executable", sys.executable))
    return sys.executable


def _read_members(wheel: Path) -> dict[str, bytes]:
    members = {}
    with zipfile.ZipFile(wheel) as archive:
        for name, wanted in SHA256.items():
            try:
                data = archive.read(name)
            except KeyError:
                raise FetchError(
                    BAD_CONTENT, f"{wheel.name} has no {name}; expected the wheel of magika {VERSION}"
                ) from None
            if _sha256(data) != wanted:
                raise FetchError(BAD_CONTENT, f"{name} in {wheel.name} has SHA-256 {_sha256(data)}, expected {wanted}")
            members[name] = data
    return members


def _model_files(members: dict[str, bytes]) -> dict[str, bytes]:
    return {
        "model.onnx": members[MODEL_MEMBER],
        "config.min.json": members[CONFIG_MEMBER],
        "labels.json": _labels(json.loads(members[CONFIG_MEMBER]), json.loads(members[TYPES_MEMBER])),
    }


def _labels(config: dict, types: dict) -> bytes:  # type: ignore[type-arg]
    """Return labels.json: for each output position the label, the label to show, its threshold, whether it is text."""
    labels = config["target_labels_space"]
    shown = [config["overwrite_map"].get(label, label) for label in labels]
    lowest = config["medium_confidence_threshold"]
    table = {
        "labels": labels,
        "output": shown,
        "threshold": [config["thresholds"].get(label, lowest) for label in labels],
        "is_text": [types[label]["is_text"] for label in shown],
    }
    return json.dumps(table, separators=(",", ":")).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
