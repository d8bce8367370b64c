"""Loading decoders: what the certificate gives them, and errors that name what does not fit."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from rota.common.errors import CodeError
from rota.common.text_calls import generate_call
from rota.gpu_worker.certificate import DecoderCertificate
from rota.gpu_worker.generation import TextModel, load_text_model
from rota.gpu_worker.repository import Repository
from rota.model_builds.random_decoder import build_random_decoder


def loaded(tmp_path: Path, folder: Path) -> TextModel:
    entry = Repository(tmp_path / "models").add(folder, "tiny")
    return load_text_model(entry, entry.settings(), threads=1, require="cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_random_decoder(tmp_path / "made", slots=3)


def with_settings(folder: Path, old: str, new: str) -> Path:
    path = folder / "model.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def full_slots(model: TextModel) -> int:
    """Return how many requests it takes at once."""
    count = 0
    while not model.is_full:
        model.start(count, generate_call({"prompt": "Hi"}), (), 0)
        count += 1
    for number in range(count):
        model.drop(number)
    return count


def test_a_decoder_begins_in_one_slot_and_gets_what_its_certificate_says(folder: Path, tmp_path: Path) -> None:
    """Goal: no evidence, no slots. Method: before, with, and without a certificate."""
    model = loaded(tmp_path, folder)
    assert full_slots(model) == 1
    small = model.held_bytes
    model.apply(DecoderCertificate((1, 3), True))
    assert full_slots(model) == 3
    assert model.held_bytes == 3 * small + (256 << 20)
    model.apply(None)
    assert (full_slots(model), model.held_bytes) == (1, small)
    model.close()


def test_the_probes_make_a_certificate(folder: Path, tmp_path: Path) -> None:
    """Goal: class A with evidence, the same each time. Method: probe twice, in two loads."""
    said: list[str] = []
    certificate = loaded(tmp_path, folder).probed(said.append)
    assert certificate.model_class == "A"
    assert certificate.decoder is not None
    assert certificate.decoder[:2] == ((1, 2, 3), True)
    assert all(one.rows and not one.differing for one in certificate.decoder.evidence)
    assert said
    assert loaded(tmp_path, folder).probed(said.append) == certificate


def test_the_fingerprint_names_the_libraries_of_the_text(folder: Path, tmp_path: Path) -> None:
    """Goal: another tokenizer library is another fingerprint. Method: the facts."""
    facts = loaded(tmp_path, folder).facts
    assert {*facts["text"]} == {"tokenizers", "jinja2", "llguidance", "numpy"}
    assert facts["probe"] == loaded(tmp_path, folder).facts["probe"]


def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    """Goal: said when it is loaded, not by wrong text. Method: a token behind the logits."""
    path = folder / "tokenizer.json"
    text = path.read_text(encoding="utf-8").replace(":299}", ":300}").replace('"id":299,', '"id":300,')
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CodeError, match=r"tokenizer\.json has the token 300, but .* logits are for tokens 0 to 299"):
        loaded(tmp_path, folder)
    build_random_decoder(folder)
    with_settings(folder, "stop_tokens = [2]", "stop_tokens = [2, 300]")
    with pytest.raises(CodeError, match=r"generate\.stop_tokens has the token 300"):
        loaded(tmp_path, folder)


def test_a_context_that_is_not_the_graphs_is_refused(folder: Path, tmp_path: Path) -> None:
    """Goal: model.toml and graph agree. Method: another number, and one that is too small to probe."""
    with pytest.raises(CodeError, match=r"are for a context of 128, and model\.toml says 64"):
        loaded(tmp_path, with_settings(folder, "context = 128", "context = 64"))
    with pytest.raises(CodeError, match="must be at least"):
        loaded(tmp_path, with_settings(with_settings(folder, "= 64", "= 8"), "tokens = 32", "tokens = 2"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("attention_mask", "attention_max", 'it has no input "attention_mask"'),
        ("past_key_values.1.value", "past_key_values.1.volume", 'it has an input "past_key_values.1.volume"'),
        ("present.0.key", "presents.0.key", 'it has no output "present.0.key"'),
        ("past_key_values.", "cache.", 'it has no inputs "past_key_values.0.key"'),
    ],
)
def test_a_graph_that_is_no_decoder_says_what_it_lacks(folder: Path, tmp_path: Path, old, new, reason: str) -> None:
    """Goal: an exporter's user sees what to mend. Method: names that differ."""
    path = folder / "model.onnx"
    model = onnx.load(path, load_external_data=False)
    for value in (*model.graph.input, *model.graph.output):
        value.name = value.name.replace(old, new)
    for node in model.graph.node:
        node.input[:] = [name.replace(old, new) for name in node.input]
        node.output[:] = [name.replace(old, new) for name in node.output]
    onnx.save(model, path)
    with pytest.raises(CodeError, match=f"model tiny version 1 cannot generate text: {reason}"):
        loaded(tmp_path, folder)
