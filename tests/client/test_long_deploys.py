"""How long a checked deploy is waited for, with a simulated clock and without a broker."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rota.client.core import Core
from rota.client.exchanges import Pause
from rota.client.operations import Operations
from rota.client.options import DeployOptions
from rota.common import limits
from rota.common.messages import Answer, Deploy, Query, Welcome
from rota.common.wire import FROM_PRODUCERS, decode, encode
from rota.common.work import MODEL

PREPARING = [{"worker": "gpu-1", "preparing": [["model:large", 5]]}]
TIMEOUT_MS = 30_000


class Waiting:
    """A deploy that is waited for, the broker's answers given by the test."""

    def __init__(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ms = 1
        self.requests: list[Deploy] = []
        for module in ("core", "operations"):
            monkeypatch.setattr(f"rota.client.{module}.now_ms", lambda: self.now_ms)
        self._core = Core(run_dir, "p", timeout_s=TIMEOUT_MS / 1000, contact_s=None, tensors=None, context=None)
        self._core.session.receive(encode(Welcome(0, 1, "test")), 0)

    def run(self, workers: list[list[dict[str, Any]]], *, timeout_s: float | None = None) -> Any:
        """Deploy; each look at the workers finds the next of these lists. When there are none, the deploy is done."""
        options = DeployOptions(kind=MODEL, timeout_s=timeout_s)
        exchange = Operations(self._core).deploy_model("large", bytes(32), options)
        with closing(self._core), closing(exchange):
            while True:
                try:
                    pause = next(exchange)
                except StopIteration as end:
                    return end.value
                self._answer(workers, pause, is_done=timeout_s is None)

    def _answer(self, workers: list[list[dict[str, Any]]], pause: Pause, *, is_done: bool) -> None:
        session, questions = self._core.session, self._core.questions
        session.receive(encode(Welcome(0, 1, "test")), self.now_ms)
        sent = [decode(frame, FROM_PRODUCERS) for frame in session.output().frames]
        self.requests += [message for message in sent if isinstance(message, Deploy)]
        asked = [decode(frame, frozenset({Query})) for frame in questions.output().frames]
        for query in asked:
            questions.receive(encode(Answer(query.number, workers.pop(0), 1, 1)), self.now_ms)
        if not asked and not workers and is_done:
            session.receive(encode(Answer(self.requests[-1].number, {"done": True}, 1, 1)), self.now_ms)
        elif not asked:
            assert pause.until_ms is not None
            self.now_ms = max(self.now_ms, pause.until_ms)


def test_a_deploy_waits_while_a_worker_loads(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a model that loads and is certified for minutes is deployed. Method: a worker that is at it twice; the
    request is repeated under its number, which is the same deploy.
    """
    waiting = Waiting(run_dir, monkeypatch)
    assert waiting.run([PREPARING, PREPARING]) == {"done": True}
    assert len({request.number for request in waiting.requests}) == 1
    assert len(waiting.requests) == 3
    assert waiting.now_ms > 2 * limits.COMPILE_MS_MAX


def test_a_deploy_that_nobody_looks_at_ends(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: no wait for nothing, nor past a given time. Method: no worker at it; one at it, and a given time."""
    with pytest.raises(TimeoutError, match="no gpu worker has looked at model:large in time"):
        Waiting(run_dir, monkeypatch).run([[{"worker": "gpu-1", "preparing": [["model:other", 5]]}], []])
    waiting = Waiting(run_dir, monkeypatch)
    with pytest.raises(TimeoutError, match="a gpu worker still compiles or loads model:large"):
        waiting.run([PREPARING], timeout_s=1)
    assert waiting.now_ms < limits.COMPILE_MS_MAX
