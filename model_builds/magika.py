"""magika, the file-type model (Apache-2.0, https://github.com/google/magika), from its PyPI wheel.

The model folder is `model.onnx` and `config.min.json` as in the wheel, and `labels.json`, four parallel arrays that an
agent reads. For a newer magika, change version, digests and the feature rules of docs/MODELS.md together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from rota.model_builds.wheels import Tell, Wheel, take

FORMS: Final = ("fp32",)

_MODEL: Final = "magika/models/standard_v3_3/model.onnx"
_CONFIG: Final = "magika/models/standard_v3_3/config.min.json"
_TYPES: Final = "magika/config/content_types_kb.min.json"
WHEEL: Final = Wheel(
    "magika",
    "1.0.3",
    15_500_000,
    {
        _MODEL: "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        _CONFIG: "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
        _TYPES: "75208adba69bc0556403b62b32ef3ccf8b5ce494411780845852e52e6583a10d",
    },
)


def build(folder: Path, form: str, scratch: Path, tell: Tell, file: Path | None = None) -> None:
    """Write the model into `folder`, which must exist. `file`: the wheel, if it need not be downloaded."""
    assert form in FORMS
    members = {name: path.read_bytes() for name, path in take(WHEEL, scratch, tell, file).items()}
    (folder / "model.onnx").write_bytes(members[_MODEL])
    (folder / "config.min.json").write_bytes(members[_CONFIG])
    (folder / "labels.json").write_bytes(_labels(json.loads(members[_CONFIG]), json.loads(members[_TYPES])))


def _labels(config: dict[str, Any], types: dict[str, Any]) -> bytes:
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
