"""Reads a whole run file: the outcome of every task, and the comparison with the reference."""

from __future__ import annotations

from typing import Any, NamedTuple

from reference import Reference, Stamped, run_reference
from simulation.worker_lies import DRIFT, LIE

from rota.broker import records
from rota.broker.asks import is_postponed
from rota.broker.notes import Notes
from rota.broker.tasks import Task
from rota.broker.world import World
from rota.common.work import AFTER_END, ASK, Code, Done, Failed, Outcome


class History(NamedTuple):
    """The content of a run file."""

    world: World
    turn_of: dict[int, int]
    finished: dict[int, Task]  # with its final outcome
    passing: dict[int, Task]  # postponed for somebody else: steps of calls, and what was handed on
    retired: dict[tuple[str, int], Task]  # as it was computed, by lane and turn
    digests: dict[str, dict[int, list[bytes]]]  # by lane: those it had with so many retired tasks, as inputs extend it
    inputs: dict[tuple[str, int], Any]  # by producer and number
    stamped_by: dict[tuple[str, int], int]  # how many tasks a submit stamped
    diverged: dict[tuple[str, int], None]
    asks: dict[tuple[str, int, int], str]  # by lane, turn and emit of the asker: its address
    answered: dict[tuple[str, int, int], int]  # the same: the turn of the answer


def read_history(found: list[records.Record], world_settings: dict[str, int]) -> History:
    """Fold records one by one. Raises AssertionError if a task has two outcomes, or agents' tasks lose their order."""
    world = World(**world_settings)
    history = History(world, {}, {}, {}, {}, {}, {}, {}, {}, {}, {})
    issued: dict[tuple[str, str], list[int]] = {}
    completed: dict[tuple[str, str], list[int]] = {}
    for record in found:
        before = world.next_seq
        notes = world.apply(record)
        origin = getattr(record, "origin", None)
        if origin is not None and origin.producer:
            key = (origin.producer, origin.number)
            assert key not in history.inputs, f"{key} took effect twice"
            history.inputs[key] = record
            if isinstance(record, records.Submitted):
                history.stamped_by[key] = sum(len(run.payloads) for run in record.runs) + (record.retry_of is not None)
                assert record.first_seq == before
        if isinstance(record, records.Diverged):
            history.diverged[(record.lane, record.turn)] = None
        _take_tasks(history, notes)
        _take_asks(history, notes)
        if isinstance(record, records.Cancelled | records.Verdict) and record.ends:
            lane = world.lanes[record.lane]
            history.digests.setdefault(lane.name, {0: [bytes(32)]})[lane.retired].append(lane.digest)
        for task in notes.issued:
            issued.setdefault((task.run.lane, task.address), []).append(task.turn)
        for task in notes.finished:
            if type(task.outcome) is Done and task.outcome is not AFTER_END and not task.stateless:
                completed.setdefault((task.run.lane, task.address), []).append(task.turn)
    for name in world.lanes:
        history.digests.setdefault(name, {0: [bytes(32)]})
    for agent, turns in completed.items():
        done = set(turns)
        assert turns == [turn for turn in issued[agent] if turn in done], f"{agent} completed out of line order"
    return history


def _take_tasks(history: History, notes: Notes) -> None:
    """Note what was stamped, which outcomes are final, and what retired."""
    for run in notes.stamped:
        history.turn_of.update({run.first_seq + at: run.first_turn + at for at in range(len(run.payloads))})
    for task in notes.finished:
        assert task.seq not in history.finished, f"task {task.seq} has two outcomes"
        if is_postponed(task.outcome):
            assert task.seq not in history.passing, f"task {task.seq} is postponed twice"
            history.passing[task.seq] = task
        else:
            history.finished[task.seq] = task
    for task in notes.answered:
        assert history.passing.pop(task.seq, None) is not None, f"task {task.seq} is answered, and nobody waited for it"
        assert not is_postponed(task.outcome), f"task {task.seq} is answered with no answer"
        history.finished[task.seq] = task
    for task in notes.retired:
        history.retired[(task.run.lane, task.turn)] = task
        digests = history.digests.setdefault(task.run.lane, {0: [bytes(32)]})
        assert task.turn_digest is not None
        digests[len(digests)] = [task.turn_digest]


def _take_asks(history: History, notes: Notes) -> None:
    """Note who asked what and which answer came: one at most, and to who asked."""
    for task in notes.retired:
        emits = task.outcome.emits if type(task.outcome) is Done else ()
        for index, emit in enumerate(emits):
            if emit.kind == ASK and not emit.answers:
                history.asks[(task.run.lane, task.turn, index)] = task.address
    for run in notes.stamped:
        if run.reply_to is not None:
            ask = (run.lane, run.reply_to.asked_in, run.reply_to.emit)
            assert ask not in history.answered, f"ask {ask} is answered at {history.answered[ask]} and again"
            assert run.targets == history.asks[ask], f"turn {run.first_turn} answers an ask of {history.asks[ask]}"
            history.answered[ask] = run.first_turn


def outcome_key(task: Task) -> tuple[Any, ...]:
    """Return an outcome as clients see it."""
    outcome = task.outcome
    if type(outcome) is Done:
        return (task.run.lane, task.turn, True, outcome.result, "", "", tuple(outcome.log))
    assert type(outcome) is Failed
    return (task.run.lane, task.turn, False, None, outcome.kind, outcome.message, tuple(outcome.log))


def check_reference(found: list[records.Record], history: History, lied: dict[tuple[str, int], None]) -> None:
    """Compare every derived lane with the sequential reference."""
    lanes = history.world.lanes
    derived = {name: lane.retired for name, lane in lanes.items() if lane.settings.policy == "derived"}
    kept = [record for record in found if getattr(record, "lane", None) in derived]

    class Deceived(Reference):
        """The reference, with the lies that stand, and with recorded results as they were recorded."""

        def _execute(self, task: Stamped, code: Code) -> Outcome:
            outcome = super()._execute(task, code)
            known = retired[(self.opened.lane, task.turn)]
            if known.provenance is not None and known.provenance.result_class == "recorded":
                assert code.recorded, f"turn {task.turn} has a recorded result, which its binding does not accept"
                if type(outcome) is Done and type(known.outcome) is Done and known.outcome.result is not None:
                    assert known.outcome.result.rstrip(DRIFT) == outcome.result
                    outcome = outcome._replace(result=known.outcome.result)
            if (self.opened.lane, task.turn) in lied:
                assert type(outcome) is Done
                outcome = outcome._replace(result=(outcome.result or b"") + LIE)
            return outcome

    retired = history.retired
    references = run_reference(kept, history.turn_of, derived, Deceived)
    outcomes = {place: task.outcome for place, task in retired.items()}
    for name, reference in references.items():
        lane = lanes[name]
        for turn, stamped in reference.done.items():
            expected, actual = stamped.outcome, outcomes[(name, turn)]
            assert actual == expected, f"turn {turn} of {name}: {actual}, the reference says {expected}"
        assert (lane.retired, lane.digest) == (reference.retired, reference.digest), f"the digest of {name} differs"
        assert [dead.turn for dead in lane.dead.values()] == list(reference.dead), f"dead letters of {name}"
        assert sorted(lane.timers) == sorted(reference.timers), f"timers of {name}"
        assert list(lane.open) == list(reference.open), f"open asks of {name}"
