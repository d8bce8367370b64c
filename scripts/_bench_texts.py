"""The bench's case of sentence embeddings: sentences per second through the queue, against a plain batched loop.

The model is `.cache/minilm`, if scripts/models/fetch.py made it; else one of its sizes with random weights, which runs
as fast. The loop has the same tokenizer and one thread: it sorts the sentences by length, pads batches of 64 to the
longest, and pools with numpy, as libraries for embeddings do.
"""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from _demo_processes import Up
from _environment import REPOSITORY

from rota.client import Client
from rota.gpu_worker.repository import Repository
from rota.model_builds.encoder import EncoderShape
from rota.model_builds.random_encoder import build_random_encoder

if TYPE_CHECKING:
    from _bench_cases import Place

WAIT_SECONDS = 600.0
BATCH = 64
QUICK_SENTENCES_MAX = 100
SIZES = EncoderShape(vocabulary=300, hidden=384, layers=6, heads=12, inner=1536, positions=128)
_WORDS_TEXT = (
    "the a of and to in is was for on with as by at from this that are it be were an have not or which had its their "
    "station morning question river model answer music paper window garden machine number letter engine winter people"
)
_WORDS = _WORDS_TEXT.split()


def sentences_of(count: int, words_max: int) -> list[str]:
    """Return different sentences of 2 words and more, always the same."""
    chance = random.Random(5)
    return [" ".join(chance.choices(_WORDS, k=chance.randint(2, words_max))) for _ in range(count)]


def sentences(place: Place) -> Iterator[None]:
    """Sentences per second: one call with all of them, cut into tasks by the client."""
    count = max(20, place.sizes.inferences // 5)
    with Up(place.folder, 0, 1) as up, Client(place.folder.root) as client:
        folder, name, words_max = _model(place, is_quick=count <= QUICK_SENTENCES_MAX)
        texts = sentences_of(count, words_max)
        digest = Repository(place.folder.models).add(folder, "encoder").digest
        up.wait_ready(place.say)
        place.say("loading the model, which probes its bits the first time")
        client.deploy_model("encoder", digest, timeout_s=WAIT_SECONDS)
        plain = PlainEncoder(folder)
        while True:
            place.say(name)
            started = time.perf_counter()
            expected = plain.vectors(texts)
            bound = {f"batched loop of {BATCH}": count / (time.perf_counter() - started)}
            started = time.perf_counter()
            found = client.embed("encoder", texts, timeout_s=WAIT_SECONDS)
            taken = time.perf_counter() - started
            assert np.allclose(found, expected, atol=1e-3), np.abs(found - expected).max()
            place.table.add("texts", f"{name}, {count} sentences, 1 worker", "sentences/s", count / taken, bound)
            yield


def _model(place: Place, *, is_quick: bool) -> tuple[Path, str, int]:
    """Return the model's folder and name, and the words of a sentence that it can take."""
    real = REPOSITORY / ".cache" / "minilm"
    made = place.folder.root / "encoder"
    if not is_quick and (real / "model.onnx").exists():
        shutil.copytree(real, made)
        settings = made / "model.toml"
        text, count = re.subn(r"(?m)^buckets = .*$", "buckets = [16, 32, 64]", settings.read_text(encoding="utf-8"))
        assert count == 1, text
        settings.write_text(text, encoding="utf-8")  # longer ones are not needed, and their probes take minutes
        return made, "MiniLM", 40
    if is_quick:
        return build_random_encoder(made), "tiny encoder", 6
    return build_random_encoder(made, SIZES, buckets=(16, 32, 64)), "sizes of MiniLM, random weights", 6


class PlainEncoder:
    """The batched loop."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def vectors(self, texts: Sequence[str]) -> np.ndarray[Any, Any]:
        """Return the vectors of the texts: float32 [texts, d]."""
        ids = [one.ids for one in self._tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
        found: dict[int, Any] = {}
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            found.update(zip(part, self._batch([ids[at] for at in part]), strict=True))
        return np.stack([found[at] for at in range(len(ids))])

    def _batch(self, ids: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
        length = max(len(one) for one in ids)
        tokens = np.array([[*one, *[0] * (length - len(one))] for one in ids], np.int64)
        mask = np.array([[1] * len(one) + [0] * (length - len(one)) for one in ids], np.int64)
        hidden: np.ndarray[Any, Any] = self._session.run(None, {"input_ids": tokens, "attention_mask": mask})[0]
        weights = mask[:, :, None].astype(np.float32)
        mean: np.ndarray[Any, Any] = (hidden * weights).sum(1) / weights.sum(1)
        unit: np.ndarray[Any, Any] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return unit
