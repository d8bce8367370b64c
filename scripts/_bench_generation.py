"""The bench of text generation: tokens per second of several requests at once, and the time to the first text.

Bounds of the same run, on the same model, prompts and number of tokens:

- a loop over the session alone: every prompt prefilled, then decodes of as many rows as there are requests, the highest
  logit of each row; no queue, no text, no end but the count. Keys and values stay where they are, as in the worker.
- onnxruntime-genai, if the environment variable BENCH_GENAI names a folder that has it, made with
  `pip install --no-deps --target FOLDER onnxruntime-genai`. It runs in a process of its own (_bench_genai.py), over the
  same weights and operators, with the two changes of the graph that it needs.

Prompts are random tokens, new ones in each round, so no prefix cache helps.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from _demo_processes import Up
from _environment import REPOSITORY

from rota.client import Client
from rota.common.work import Limits
from rota.generation.cells import SlotCells
from rota.generation.decoder_interface import interface_of
from rota.generation.slot_decoder import SlotDecoder
from rota.gpu_worker.providers import open_session
from rota.gpu_worker.repository import ModelEntry, Repository
from rota.model_builds.catalog import cached
from rota.model_builds.random_decoder import build_random_decoder

if TYPE_CHECKING:
    from _bench_cases import Place

REQUESTS = (1, 4, 8)
PROMPT_TOKENS = 32
GENAI_SECONDS_MAX = 600.0
_GENAI = "BENCH_GENAI"
_LIMITS = Limits(timeout_ms=600_000)


class Workload(NamedTuple):
    """What one row generates: the tokens of the prompts, and how many tokens follow each."""

    prompts: list[list[int]]
    following: int

    @property
    def tokens(self) -> int:
        return len(self.prompts) * self.following


def generation(place: Place) -> Iterator[None]:
    """Measure a worker with one model. `--quick` takes a tiny one of random weights."""
    is_quick = place.sizes.generated <= 8
    entry = Repository(place.folder.models).add(_folder(place, is_quick=is_quick), "decoder")
    random = np.random.default_rng(4)
    with Up(place.folder, 0, 1) as up, Client(place.folder.root) as client:
        up.wait_ready(place.say)
        place.say("loading and probing the model")
        client.deploy_model("decoder", entry.digest, code_limits=_LIMITS, timeout_s=1_800.0)
        loop = SessionLoop(entry)
        while True:
            for requests in REQUESTS:
                work = _workload(random, requests, place.sizes.generated, loop.vocabulary)
                name = f"{requests} request{'s' if requests > 1 else ''} of {work.following} tokens"
                place.say(name)
                bounds = {f"session loop, {requests} rows": loop.tokens_per_second(work)}
                genai = genai_tokens_per_second(entry, work)
                if genai:
                    bounds["onnxruntime-genai"] = genai
                place.table.add("generation", name, "tokens/s", _rota(client, work), bounds)
            place.say("the first text")
            work = _workload(random, 1, 1, loop.vocabulary)
            seconds = loop.first_seconds(work)
            place.table.add(
                "generation", f"first text behind {PROMPT_TOKENS} tokens", "ms", _first(client, work) * 1_000,
                {"prefill of the session loop": seconds * 1_000},
            )  # fmt: skip
            yield


def _folder(place: Place, *, is_quick: bool) -> Path:
    if is_quick:
        return build_random_decoder(place.folder.root / "made", slots=max(REQUESTS))
    return cached("smollm2", "fp32", REPOSITORY / ".cache" / "smollm2-fp32", place.say)


def _workload(random: np.random.Generator, requests: int, following: int, vocabulary: int) -> Workload:
    """Make prompts of ordinary tokens: the first hundred may be special."""
    prompts = random.integers(100, vocabulary - 50, (requests, PROMPT_TOKENS))
    return Workload([[int(token) for token in prompt] for prompt in prompts], following)


def _rota(client: Client, work: Workload) -> float:
    """Return the tokens per second from the submit to the last result, text streamed and all of it durable."""
    started = time.perf_counter()
    running = [client.generate("decoder", tokens=prompt, max_tokens=work.following) for prompt in work.prompts]
    results = [one.result() for one in running]
    seconds = time.perf_counter() - started
    return sum(len(result.tokens) for result in results) / seconds


def _first(client: Client, work: Workload) -> float:
    """Return the seconds to the result of one token."""
    started = time.perf_counter()
    client.generate("decoder", tokens=work.prompts[0], max_tokens=1).result()
    return time.perf_counter() - started


class SessionLoop:
    """The session alone, in this process."""

    def __init__(self, entry: ModelEntry) -> None:
        settings = entry.settings()
        assert settings.generate is not None
        opened = open_session(entry.model_path, settings, threads=1, require="cpu")
        self._interface = interface_of(opened.session, settings.generate.context, "the model")
        self._session = opened.session
        self._context = settings.generate.context
        logits: Any = {node.name: node for node in opened.session.get_outputs()}["logits"]
        self.vocabulary = int(logits.shape[2])

    def tokens_per_second(self, work: Workload) -> float:
        """Prefill every prompt, then decode all rows together."""
        rows = len(work.prompts)
        slots = self._slots(rows)
        started = time.perf_counter()
        last = [int(slots.prefill(row, 0, prompt).argmax()) for row, prompt in enumerate(work.prompts)]
        for step in range(work.following - 1):
            logits = slots.decode({row: (last[row], PROMPT_TOKENS + step) for row in range(rows)}, {})
            last = [int(token) for token in logits.argmax(axis=1)]
        return work.tokens / (time.perf_counter() - started)

    def first_seconds(self, work: Workload) -> float:
        """Prefill one prompt and choose a token."""
        slots = self._slots(1)
        started = time.perf_counter()
        slots.prefill(0, 0, work.prompts[0]).argmax()
        return time.perf_counter() - started

    def _slots(self, rows: int) -> SlotDecoder:
        cells = SlotCells(self._interface.cells_shape(rows, self._context))
        made = SlotDecoder(self._session, self._interface, cells, (rows,), self.vocabulary)
        made.prefill(0, 0, [5, 6])  # binds
        made.decode(dict.fromkeys(range(rows), (5, 2)), {})
        return made


def genai_tokens_per_second(entry: ModelEntry, work: Workload) -> float:
    """Return what onnxruntime-genai does with the same work; 0 if it is not there."""
    where = os.environ.get(_GENAI, "")
    if not where:
        return 0.0
    request = json.dumps({"folder": str(entry.folder), "genai": where, **work._asdict()})
    script = Path(__file__).with_name("_bench_genai.py")
    done = subprocess.run(
        [sys.executable, str(script)], input=request, capture_output=True, text=True, timeout=GENAI_SECONDS_MAX,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"onnxruntime-genai of {where} fails: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout)["tokens_per_second"])
