"""Sends outcomes to producers: looks them up, watches for them, and sends them in parts. PURE.

`pay` ends each step: it sends every connection that is not slow one message of what it is owed (debts.py), within
bounds per connection and per step. So neither many Awaits nor a large one delay others by more than a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rota.broker.debts import Debt, OpenAwait, item_bytes
from rota.broker.refusals import refuse
from rota.broker.results import result_item, watch
from rota.broker.state import BrokerState
from rota.broker.tasks import Run, Task, caught_task
from rota.common.errors import Expired, RotaError
from rota.common.messages import ResultItem, Results

RESULTS_PER_MESSAGE: Final = 4_096
RESULT_BYTES_PER_MESSAGE: Final = 1 << 20
LOOKS_PER_MESSAGE: Final = 4_096  # tasks looked up for one connection, with or without a result
RESULTS_PER_STEP: Final = 16_384
RESULT_BYTES_PER_STEP: Final = 8 << 20
LOOKS_PER_STEP: Final = 32_768
_WATCHED_TOGETHER: Final = 512  # tasks of a run: if a lookup stops within them, some results are sent twice


class Payment:
    """What one connection gets in this step."""

    def __init__(self) -> None:
        self.items: list[ResultItem] = []
        self.bytes = 0
        self.looks = 0

    @property
    def full(self) -> bool:
        return (
            self.bytes >= RESULT_BYTES_PER_MESSAGE
            or len(self.items) >= RESULTS_PER_MESSAGE
            or self.looks >= LOOKS_PER_MESSAGE
        )

    def add(self, items: list[ResultItem], size: int) -> None:
        self.items += items
        self.bytes += size

    def add_task(self, task: Task) -> None:
        item = result_item(task)
        self.items.append(item)
        self.bytes += item_bytes(item)


def pay(broker: BrokerState) -> None:
    """Send connections what they are owed, within the bounds of a step."""
    if broker.storage_full:
        return  # what waits for the disk must not grow
    results = size = looks = 0
    for identity, debt in broker.debts.turn():
        part = Payment()
        refusals = _fill(broker, identity, debt, part)
        if part.items:
            broker.answer(identity, Results.of(part.items))
        for number, error in refusals:
            refuse(broker, identity, number, error)
        broker.debts.paid(identity)
        results, size, looks = results + len(part.items), size + part.bytes, looks + part.looks
        if results >= RESULTS_PER_STEP or size >= RESULT_BYTES_PER_STEP or looks >= LOOKS_PER_STEP:
            return


def watch_new(broker: BrokerState, identity: bytes, first_seq: int, last_seq: int) -> None:
    """Send the outcomes of tasks stamped in this step, when they exist."""
    for _, task in _look(broker, identity, first_seq, last_seq):
        if task is not None:
            broker.send_result(identity, task)


def _fill(broker: BrokerState, identity: bytes, debt: Debt, part: Payment) -> list[tuple[int, RotaError]]:
    """Move what fits from a debt into a part; return refusals with the number of their request."""
    part.add(*debt.take_outcomes(RESULTS_PER_MESSAGE, RESULT_BYTES_PER_MESSAGE))
    gone: list[int] = []
    while debt.ranges and not part.full:
        seq = debt.take_seq()
        part.looks += 1
        task = _outcome(broker, seq)
        if task is None:
            gone.append(seq)
        else:
            part.add_task(task)
    refusals = _refusals(0, gone)
    while debt.awaits and not part.full:
        if _answer(broker, identity, debt.awaits[0], part):
            ended = debt.awaits.popleft()
            refusals += _refusals(ended.number, ended.expired)
    return refusals


def _refusals(number: int, seqs: list[int]) -> list[tuple[int, RotaError]]:
    if not seqs:
        return []
    text = f"the results of {len(seqs)} tasks from {seqs[0]} on are no longer kept: ask sooner or keep more"
    return [(number, Expired(text, seqs=seqs))]


def _answer(broker: BrokerState, identity: bytes, asked: OpenAwait, part: Payment) -> bool:
    """Continue to answer an Await; return whether it is complete."""
    part.looks += 1  # counts even if there is nothing to look up
    for seq, task in _look(broker, identity, asked.next_seq, asked.last_seq):
        asked.next_seq = seq + 1
        part.looks += 1
        if task is not None:
            part.add_task(task)
        elif not _is_open(broker, seq):
            asked.expired.append(seq)
        if part.full:
            return asked.next_seq > asked.last_seq
    return True


def _look(broker: BrokerState, identity: bytes, first_seq: int, last_seq: int) -> Iterator[tuple[int, Task | None]]:
    """Watch tasks, and yield each that may have an outcome, in order, with the outcome if known.

    Of tasks that were stamped together and have no outcome, only the last one is yielded.
    """
    seq = first_seq
    while seq <= last_seq:
        run = broker.world.runs.find(seq)
        if run is None:
            yield seq, _outcome_or_watch(broker, identity, seq)
            seq += 1
            continue
        end = min(last_seq, run.first_seq + len(run.payloads) - 1)
        if not run.finished and not run.verdicts:  # no outcomes to look up
            watch(run, identity, seq, end)
            yield end, None
            seq = end + 1
            continue
        end = min(end, seq + _WATCHED_TOGETHER - 1)
        watch(run, identity, seq, end)
        yield from [(one, _outcome_or_watch(broker, identity, one)) for one in range(seq, end + 1)]
        seq = end + 1


def _outcome_or_watch(broker: BrokerState, identity: bytes, seq: int) -> Task | None:
    """Return a task's outcome if it is known; watch the task if it is pending."""
    if seq in broker.world.pending:
        broker.watchers.add(identity, seq)
        return None
    return _outcome(broker, seq)


def _outcome(broker: BrokerState, seq: int) -> Task | None:
    """Return a task whose outcome is known and kept: one that has finished, or was caught while it waits."""
    task = broker.world.results.find(seq)
    if task is not None:
        return task
    run = broker.world.runs.find(seq)
    if run is None or run.verdicts is None:
        return None
    index = seq - run.first_seq
    failure = run.verdicts.get(index) if index >= run.issued else None
    return None if failure is None else caught_task(run, index, failure)


def _is_open(broker: BrokerState, seq: int) -> bool:
    """Return whether a task is stamped and has no final outcome yet."""
    if seq in broker.world.pending:
        return True
    run: Run | None = broker.world.runs.find(seq)
    if run is None:
        return False
    index = seq - run.first_seq
    if index >= run.issued:
        return True
    task = broker.world.lanes[run.lane].line_by_turn.get(run.first_turn + index)
    return task is not None and task.outcome is None
