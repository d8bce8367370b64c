"""One small run with everything that inspection shows, and a worker that executes real modules.

The run is driven step by step through a `Broker` of core_kit.py, so its numbers are fixed: "task 6" in tests is the
timer's parent. The docstring of `eventful` describes the run; change both, and the golden texts of
tests/cli/test_inspect.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from run_kit import Broker, program, records_of, scripted, write_run

from rota.broker import records, snapshot
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.common.messages import Assign, Completed
from rota.common.work import Code, Fold, FoldResult, TaskInput

__all__ = ["Broker", "MemoryRun", "RealWorker", "eventful", "program", "records_of", "scripted", "write_run"]


class MemoryRun:
    """A run's records without a file, as runs/ and proof/ read them. Those up to `cut_after` are compacted away."""

    def __init__(self, broker: Broker, name: str = "the run", cut_after: int = 0) -> None:
        self.name = name
        self._records = list(enumerate(records_of(broker), 1))[cut_after:]
        before = World()
        fold(before, records_of(broker)[:cut_after])
        self._snapshot = list(snapshot.encode(snapshot.take(before))) if cut_after else None

    def begin(self) -> World:
        return World() if self._snapshot is None else snapshot.load(self._snapshot)

    def records(self) -> Iterator[tuple[int, Any]]:
        return iter(self._records)


def eventful() -> Broker:
    """A run in which

    - task 1 of `counter/a` asks `counter/b` (2, reply 4) and tells `counter/c` (3), which fails;
    - tasks 5, 6, 7 of `counter/b` come in one submit; 6 sets a timer, which fires as task 9;
    - task 8 is for a name that is not deployed, its payload is MessagePack;
    - task 10 sets a timer that does not fire;
    - 11 and 12 of `counter/z` wait in a paused lane, 11 is cancelled; the dead task 3 is retried as 13.
    """
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker("w1")
    ask, tell = ["ask", "counter/b", [["add", 5]]], ["tell", "counter/c", [["fail", "no good"]]]
    alice.submit("counter/a", program(["add", 1], ask, tell, ["log", "hello"]))
    broker.run()
    timer = ["timer", 500, [["add", 7]]]
    alice.submit("counter/b", program(["add", 1]), program(["add", 2], timer), program())
    alice.submit("nobody", b"\x81\xa1a\x01")
    broker.run()
    broker.live(1_000)
    broker.run()
    alice.submit("counter/a", program(["timer", 1_000_000_000, []]))
    broker.run()
    alice.pause()
    first = alice.submit("counter/z", program(["add", 1])).first_seq
    alice.submit("counter/z", program(["add", 2]))
    assert alice.cancel(first)
    alice.submit_runs(retry_of=3)
    assert [record.first_seq for record in broker.recorded(records.Submitted)][-1] == 13
    broker.check()
    return broker


class RealWorker:
    """Makes a simulated worker of tests/broker execute folds for real, with `execute`."""

    def __init__(self, worker: Any, execute: Callable[[Fold], FoldResult]) -> None:
        self.folds: list[Fold] = []
        self._execute = execute
        self._worker = worker
        worker.compute = self._compute

    def _compute(self, order: Assign) -> Completed:
        found = []
        for assigned in order.folds:
            tasks = tuple(
                [
                    TaskInput(
                        turn,
                        part.kind,
                        part.sender,
                        payload,
                        part.now_ms,
                        part.reply_to,
                        (),
                        part.emits_max,
                        part.growth_bytes,
                    )
                    for part in assigned.segments
                    for turn, payload in zip(part.turns, part.payloads, strict=True)
                ]
            )
            code: Code = order.codes[assigned.code]
            self.folds.append(Fold(order.seed, code, assigned.address, assigned.state, tasks))
            found.append(self._execute(self.folds[-1]))
        return Completed(self._worker.name, order.assignment, tuple(found), 1_000)
