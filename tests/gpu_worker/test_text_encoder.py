"""Texts to rows and rows to vectors or labels, on real tokenizers and real sessions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import onnxruntime
import pytest
from tiny_encoder import HIDDEN, build_tiny_encoder, tokenizer

from rota.common.errors import BadPayload, CodeError
from rota.common.text_calls import ClassifyCall, EmbedCall, TextCall, encode_text_call
from rota.common.text_results import ClassifyResult, EmbedResult, decode_text_result
from rota.gpu_worker.model_io import ports_of
from rota.gpu_worker.settings import parse_settings
from rota.gpu_worker.text_encoder import TextEncoder
from rota.tensors.arrays import Array, array_of
from rota.tensors.store import TensorStore

TEXTS = ("The cat sat", "", "a very good film and a very bad dog", "dogs running away", "the cat sat")


class Loaded:
    """An encoder beside its session, which runs rows in batches of any size."""

    def __init__(self, folder: Path, store: TensorStore | None = None) -> None:
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
        settings = parse_settings((folder / "model.toml").read_text(), "model.toml")
        inputs = ports_of(self.session.get_inputs(), "input")
        self.outputs = ports_of(self.session.get_outputs(), "output")
        self.encoder = TextEncoder(folder, settings, inputs, self.outputs, store)
        self.store = store

    def run(self, call: TextCall) -> Any:
        """Return the result of a call, each of whose rows ran alone."""
        rows = self.encoder.rows(encode_text_call(call))
        outputs = [dict(zip(self.outputs, self.session.run(None, arrays_of(one)), strict=True)) for one in rows.calls]
        payload, references = rows.packed(outputs)
        result = decode_text_result(payload, references)
        if isinstance(result, EmbedResult):
            return array_of(result.vectors, references, self.store), result.usage
        assert isinstance(result, ClassifyResult)
        return result


def arrays_of(call: Any) -> dict[str, Array]:
    return {name: array_of(tensor, (), None) for name, tensor in call.inputs.items()}


def ids_of(text: str) -> list[int]:
    return list(tokenizer().encode(text).ids)


def true_vector(loaded: Loaded, text: str, size: int) -> np.ndarray[Any, Any]:
    """Mean pooling and normalising in float64 by the textbook, over the session's own output."""
    ids = ids_of(text)
    feeds = {
        "input_ids": np.array([[*ids, *[0] * (size - len(ids))]]),
        "attention_mask": np.array([[1] * len(ids) + [0] * (size - len(ids))]),
    }
    (hidden,) = loaded.session.run(None, feeds)
    mean = hidden[0, : len(ids)].astype(np.float64).mean(0)
    vector: np.ndarray[Any, Any] = mean / np.sqrt((mean * mean).sum())
    return vector


def test_vectors_are_those_of_the_text_book(tmp_path: Path) -> None:
    """Goal: tokens, mask, pooling and normalising as every library does them. Method: against float64 by hand."""
    loaded = Loaded(build_tiny_encoder(tmp_path / "m"))
    vectors, usage = loaded.run(EmbedCall(TEXTS))
    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), HIDDEN), np.float32)
    assert usage.prompt == sum(len(ids_of(text)) for text in TEXTS)
    for text, vector in zip(TEXTS, vectors, strict=True):
        size = 8 if len(ids_of(text)) <= 8 else 16
        assert vector == pytest.approx(true_vector(loaded, text, size), abs=1e-6)
    assert vectors[0].tobytes() == vectors[4].tobytes()  # the tokenizer lowers the case


def test_a_text_is_padded_to_the_smallest_bucket_that_holds_it(tmp_path: Path) -> None:
    """Goal: the shape is a property of the text. Method: lengths around the buckets; inputs and their dtypes."""
    loaded = Loaded(build_tiny_encoder(tmp_path / "m", types=True))
    for words, size in ((0, 8), (6, 8), (7, 16), (14, 16), (15, 32), (30, 32)):
        (call,) = loaded.encoder.rows(encode_text_call(EmbedCall(("cat " * words,)))).calls
        arrays = arrays_of(call)
        assert {name: (array.shape, str(array.dtype)) for name, array in arrays.items()} == dict.fromkeys(
            ("input_ids", "attention_mask", "token_type_ids"), ((1, size), "int64")
        )
        assert arrays["attention_mask"].tolist() == [[1] * (words + 2) + [0] * (size - words - 2)]
        assert arrays["input_ids"][0, words + 2 :].tolist() == [0] * (size - words - 2)
        assert not arrays["token_type_ids"].any()


def test_a_text_has_the_same_bits_in_every_call_and_row(tmp_path: Path) -> None:
    """Goal: what a text gets does not depend on the texts beside it. Method: alone, together, shuffled, in a row of
    another batch."""
    loaded = Loaded(build_tiny_encoder(tmp_path / "m"))
    random = np.random.default_rng(5)
    alone = {text: loaded.run(EmbedCall((text,)))[0].tobytes() for text in TEXTS}
    for _ in range(5):
        order = [TEXTS[at] for at in random.integers(0, len(TEXTS), 12)]
        vectors, _ = loaded.run(EmbedCall(tuple(order)))
        assert [vector.tobytes() for vector in vectors] == [alone[text] for text in order]
    rows = loaded.encoder.rows(encode_text_call(EmbedCall((TEXTS[0],))))
    (output,) = loaded.session.run(None, arrays_of(rows.calls[0]))
    batch = np.full((4, 9, HIDDEN), np.nan, np.float32)  # other strides, and garbage behind
    batch[2, :8] = output[0]
    packed, _ = rows.packed([{"last_hidden_state": batch[2:3, :8]}])
    vectors = decode_text_result(packed)
    assert isinstance(vectors, EmbedResult)
    assert vectors.vectors.data == alone[TEXTS[0]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pooling": "cls", "normalize": False}, lambda hidden, count: hidden[0]),
        ({"pooling": "mean", "normalize": False}, lambda hidden, count: hidden[:count].astype(np.float64).mean(0)),
        ({"pooling": "cls"}, lambda hidden, count: hidden[0] / np.sqrt((hidden[0].astype(np.float64) ** 2).sum())),
    ],
)
def test_pooling_follows_the_settings(tmp_path: Path, settings: dict[str, Any], expected: Any) -> None:
    """Goal: each setting means what its name says. Method: against the session's output."""
    loaded = Loaded(build_tiny_encoder(tmp_path / "m", **settings))
    rows = loaded.encoder.rows(encode_text_call(EmbedCall((TEXTS[2],))))
    (hidden,) = loaded.session.run(None, arrays_of(rows.calls[0]))
    vectors, _ = loaded.run(EmbedCall((TEXTS[2],)))
    assert vectors[0] == pytest.approx(expected(hidden[0], rows.counts[0]), rel=1e-6)


def test_large_vectors_go_through_the_store(tmp_path: Path) -> None:
    """Goal: a result of any size can travel. Method: 2,500 numbers inline, 10,000 and more by reference."""
    store = TensorStore(tmp_path / "tensors")
    loaded = Loaded(build_tiny_encoder(tmp_path / "m", pooling="cls"), store)
    few, _ = loaded.run(EmbedCall(TEXTS * 60))
    assert store.stats().files == 0
    hidden = np.random.default_rng(0).standard_normal((1, 8, 1_000), np.float32)
    rows = loaded.encoder.rows(encode_text_call(EmbedCall(("cat",) * 20)))
    payload, references = rows.packed([{"last_hidden_state": hidden}] * 20)
    assert len(references) == store.stats().files == 1
    result = decode_text_result(payload, references)
    assert isinstance(result, EmbedResult)
    assert array_of(result.vectors, references, store).shape == (20, 1_000)
    assert few.shape == (300, HIDDEN)


def test_labels_with_their_scores(tmp_path: Path) -> None:
    """Goal: the usual meaning of each activation. Method: against numpy over the session's logits."""
    names = ("bad", "fair", "good")
    for activation in ("softmax", "sigmoid", "none"):
        folder = build_tiny_encoder(tmp_path / activation, task="classify", labels=names, activation=activation)
        loaded = Loaded(folder)
        result = loaded.run(ClassifyCall(TEXTS))
        rows = loaded.encoder.rows(encode_text_call(ClassifyCall(TEXTS)))
        for call, found in zip(rows.calls, result.labels, strict=True):
            logits = loaded.session.run(None, arrays_of(call))[0][0].astype(np.float64)
            expected = {
                "softmax": np.exp(logits) / np.exp(logits).sum(),
                "sigmoid": 1 / (1 + np.exp(-logits)),
                "none": logits,
            }[activation]
            assert dict(found) == pytest.approx(dict(zip(names, expected.tolist(), strict=True)), rel=1e-9)
            assert [score for _, score in found] == sorted([score for _, score in found], reverse=True)
        best = loaded.run(ClassifyCall(TEXTS, top=1))
        assert [row[:1] for row in result.labels] == [*best.labels]
        assert best.usage == result.usage


def test_labels_may_stand_in_the_settings(tmp_path: Path) -> None:
    """Goal: a short list needs no file. Method: names in model.toml."""
    folder = build_tiny_encoder(tmp_path / "m", task="classify", labels=("x", "y"))
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace('"labels.json"', '["no", "yes"]'))
    loaded = Loaded(folder)
    assert sorted(name for name, _ in loaded.run(ClassifyCall(("cat",))).labels[0]) == ["no", "yes"]


# --- texts that cannot be done ------------------------------------------------------------------------------------


def test_a_text_that_is_too_long_is_named(tmp_path: Path) -> None:
    """Goal: nothing is cut unless the producer says so. Method: one token more than allowed; then with truncate."""
    loaded = Loaded(build_tiny_encoder(tmp_path / "m", length_max=20))
    fits, long = "cat " * 18, "cat " * 19
    assert loaded.run(EmbedCall((fits,)))[1].prompt == 20
    with pytest.raises(BadPayload, match=r'"embed.texts\[1\]" has 21 tokens, and this model takes at most 20'):
        loaded.run(EmbedCall((fits, long)))
    vectors, usage = loaded.run(EmbedCall((fits, long), truncate=True))
    assert usage.prompt == 40  # the special tokens stay
    assert vectors[0].tobytes() == vectors[1].tobytes()


def test_a_huge_text_is_not_read(tmp_path: Path) -> None:
    """Goal: one text holds up nobody. Method: a text of a megabyte that gives one token, and one that is cut; only the
    characters that count are read.
    """
    loaded = Loaded(build_tiny_encoder(tmp_path / "m", length_max=20))
    read = 64 * 20
    blank = "cat" + " " * read
    with pytest.raises(BadPayload, match=f'"embed.texts.0." has {len(blank)} characters, .* for which {read} are read'):
        loaded.run(EmbedCall((blank,)))
    assert loaded.run(EmbedCall((blank[:read],)))[1].prompt == 3
    vectors, _ = loaded.run(EmbedCall(("cat", blank, "cat " * 250_000, "cat " * 100), truncate=True))
    assert vectors[0].tobytes() == vectors[1].tobytes()
    assert vectors[2].tobytes() == vectors[3].tobytes()


def test_a_text_without_tokens_is_named(tmp_path: Path) -> None:
    """Goal: no mean over nothing. Method: a tokenizer that adds no special tokens, and an empty text."""
    folder = build_tiny_encoder(tmp_path / "m")
    plain = tokenizer()
    definition = json.loads(plain.to_str())
    definition["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    loaded = Loaded(folder)
    assert loaded.run(EmbedCall(("cat",)))[1].prompt == 1
    with pytest.raises(BadPayload, match=r'"embed.texts\[1\]" has no tokens'):
        loaded.run(EmbedCall(("cat", "  ")))


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "not one MessagePack value"),
        (msgpack.packb({"embed": {"texts": []}}), "texts"),
        (msgpack.packb({"embed": {"texts": [1]}}), "texts"),
        (msgpack.packb({"classify": {"texts": ["x"]}}), 'takes "embed"'),
        (msgpack.packb({"inputs": {}}), 'takes "embed"'),
    ],
)
def test_other_payloads_are_bad_input(tmp_path: Path, payload: bytes, why: str) -> None:
    """Goal: a clear refusal. Method: near misses."""
    with pytest.raises(BadPayload, match=why):
        Loaded(build_tiny_encoder(tmp_path / "m")).encoder.rows(payload)


def test_outputs_that_do_not_fit_the_settings_are_named(tmp_path: Path) -> None:
    """Goal: a model that gives something else at run time is no crash. Method: wrong rank, count, and NaN."""
    loaded = Loaded(build_tiny_encoder(tmp_path / "m", task="classify", labels=("a", "b")))
    rows = loaded.encoder.rows(encode_text_call(ClassifyCall(("cat",))))
    for scores, why in (
        (np.zeros((1, 3), np.float32), "has 3 scores for each text, but text.labels names 2"),
        (np.zeros((1, 2, 2), np.float32), r"must be \[rows, values\]"),
        (np.zeros((1, 0), np.float32), r"must be \[rows, values\]"),
        (np.array([[0, np.nan]], np.float32), "no numbers"),
    ):
        with pytest.raises(BadPayload, match=why):
            rows.packed([{"logits": scores}])


# --- models that cannot be loaded ---------------------------------------------------------------------------------


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": 1}')


def _without_labels(folder: Path) -> None:
    (folder / "labels.json").unlink()


def _labels(text: str) -> Any:
    return lambda folder: (folder / "labels.json").write_text(text)


def _settings(**changed: Sequence[str] | str) -> Any:
    def change(folder: Path) -> None:
        text = (folder / "model.toml").read_text()
        for key, value in changed.items():
            text = f"{key} = {json.dumps(value)}\n{text}"
        (folder / "model.toml").write_text(text)

    return change


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_without_tokenizer, r"tokenizer.json cannot be read: No such file .* text.tokenizer"),
        (_damaged_tokenizer, "tokenizer.json is no tokenizer.json that can be read"),
        (_without_labels, r"labels.json cannot be read: No such file .* text.labels"),
        (_labels("[1]"), "must be a JSON list of 1 to"),
        (_labels('{"0": "a"}'), "must be a JSON list of 1 to"),
        (_labels("["), "labels.json is not JSON"),
        (_labels('["a", "b", "c"]'), 'output "logits" of the model has 2 scores .* names 3'),
        (_settings(outputs=["logits", "logits"]), "outputs must name one output"),
    ],
)
def test_a_model_whose_parts_do_not_fit_is_refused(tmp_path: Path, spoil: Any, why: str) -> None:
    """Goal: the file and the remedy are named when the model is loaded. Method: spoil each part."""
    folder = build_tiny_encoder(tmp_path / "m", task="classify", labels=("a", "b"))
    spoil(folder)
    with pytest.raises(CodeError, match=why):
        Loaded(folder)


def test_graphs_of_another_kind_are_refused(tmp_path: Path, kit: Any) -> None:
    """Goal: a graph that takes no tokens is refused with what it has. Method: other inputs, and pooling that does not
    fit the output."""
    folder = build_tiny_encoder(tmp_path / "m")
    kit.multilayer(folder / "model.onnx")
    with pytest.raises(CodeError, match="needs an input input_ids; this one has x"):
        Loaded(folder)
    other = build_tiny_encoder(tmp_path / "o", task="classify", labels=("a", "b"))
    text = (other / "model.toml").read_text().replace('"classify"', '"embed"').replace('labels = "labels.json"\n', "")
    (other / "model.toml").write_text(text)
    with pytest.raises(CodeError, match=r"floats \[rows, length, values\], but \"logits\" is float32 \[rows, 2\]"):
        Loaded(other)
