"""The first-divergence report: for each lane that differs, the exact turn, both sides, and why.

`explain` takes what `verify` found, reads about the turn in the journal (circumstances.py), executes it again alone
(trials.py), and names the cause (causes.py, damage.py). A `Divergence` holds plain values; `to_json` is for programs,
`lines` (divergence_text.py) for people. Its names are part of the command line's contract: docs/VERIFY.md lists them.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping
from copy import copy
from typing import Any, Final, NamedTuple

from rota.broker import records
from rota.broker.asks import is_postponed
from rota.broker.tasks import Task
from rota.common.calls import other_path_turn
from rota.common.code_kinds import kind_of, pool_of
from rota.common.errors import JournalError
from rota.common.plain import plain
from rota.common.work import BITWISE, Code, Done, Failed
from rota.engine.engine import Runner
from rota.proof.causes import Case, FoundCause, explains, facts_here, find_cause, other_facts
from rota.proof.trials import Trials, effect_of, trials_at
from rota.proof.verify import LaneReport, Mismatch, RunReport
from rota.runs.circumstances import Circumstances, RecordedBy, circumstances
from rota.runs.damage import Damage, find_damage
from rota.runs.differing import ByteDifference, Part, part, state_bytes, turn_parts
from rota.runs.open import RunSource
from rota.runs.readable import cut, readable
from rota.runs.record_checks import Fault
from rota.runs.tree import Ancestor, RootInput, root_input
from rota.runs.walk import Walk, record_at

VALUE_CHARS_MAX: Final = 120
UNPROVED_MAX: Final = 16
NOTE_CHARS_MAX: Final = 80


class Bytes(NamedTuple):
    """Where two byte strings first differ. `window_at`: the offset of the two windows shown."""

    what: str
    at: int
    expected_bytes: int
    actual_bytes: int
    window_at: int
    expected_hex: str
    actual_hex: str
    expected_text: str
    actual_text: str


class Divergence(NamedTuple):
    """Where a run and its repetition differ, or where the run contradicts itself. Unknown fields are None or empty.

    `expected` is what the run says, `actual` what the execution gave; `differs` names the fields that are not equal.
    `record` holds the expected outcome, or is the wrong one; `last_good` is set where the journal breaks off.
    """

    lane: str | None
    turn: int | None
    seq: int | None
    target: str | None
    kind: str | None
    cause: str
    why: str
    evidence: tuple[str, ...]
    record: int | None
    origin: RootInput | None
    parents: tuple[Ancestor, ...]
    expected: Mapping[str, Any] | None
    actual: Mapping[str, Any] | None
    differs: tuple[str, ...]
    bytes_differ: tuple[Bytes, ...]
    code_digest: bytes | None
    recorded_by: RecordedBy | None
    here: tuple[tuple[str, str], ...]
    last_good: int | None
    unproved: tuple[tuple[str, int], ...]
    command: str

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON's types: digests as hex, other bytes as text or base64."""
        value: dict[str, Any] = plain(self._asdict())
        value["here"] = dict(self.here)
        if self.recorded_by is not None:
            value["recorded_by"]["facts"] = dict(self.recorded_by.facts)
        value["unproved"] = dict(self.unproved)
        return value


class Note(NamedTuple):
    """A difference that is not a divergence: in a worker's engine, or in what no digest covers.

    `reused`: the agent or function whose fuel or log differs, if it was deployed with `reuse`.
    """

    lane: str
    first_turn: int
    name: str
    there: str
    here: str
    reused: str = ""

    def __str__(self) -> str:
        there, here = [cut(text, NOTE_CHARS_MAX) for text in (self.there, self.here)]
        text = (
            f"lane {self.lane!r}, from turn {self.first_turn}: {self.name} was {there!r}, here it is {here!r}; "
            "the turns are equal"
        )
        if self.reused:
            text += f"; {self.reused!r} may keep memory between its tasks: deploy it without reuse or fix it"
        return text


def explain(source: RunSource, report: RunReport, runner: Runner, *, live_models: bool = False) -> list[Divergence]:
    """Return the divergences by lane and turn, and last the place where the journal breaks off.

    Empty if the report is equal. `runner` executes single turns; it should do so in this process, because an agent
    that keeps memory shows it only if one instance runs twice.
    """
    found: list[Divergence] = []
    for lane in report.lanes:
        found += _Explainer(source, lane, runner, live_models).run()
    if report.damage is not None:
        damage = find_damage(source, report.damage)
        # A record that does not follow from others may only do so because of a divergence before it.
        if damage.is_chain or not found:
            found.append(_of_damage(source, damage))
    return found


def other_engines(report: RunReport, runner: Runner) -> list[Note]:
    """Return the differences of a run with equal turns: other engines, other fuel, other log lines."""
    notes: list[Note] = []
    for lane in report.lanes:
        if not lane.equal:
            continue
        ran = {"cpu": lane.counts.executed > 0, "gpu": lane.counts.models_executed > 0}
        for worker in [one for one in lane.workers if ran.get(one.pool)]:
            there, here = dict(worker.facts), dict(facts_here(runner, worker.pool))
            for name in other_facts(worker.pool, there, here)[:1]:
                notes.append(Note(lane.lane, worker.first_turn, name, there.get(name, "none"), here.get(name, "none")))
        if lane.reported is not None:
            told = lane.reported
            told_by = f"record {told.number}: worker {told.worker} had another one than the one that stands"
            notes.append(Note(lane.lane, told.turn, "outcome", told_by, "the one that stands"))
        if lane.aside is not None:
            turn, *rest = lane.aside
            notes.append(Note(lane.lane, turn, *rest))
    return notes


# --- one lane -------------------------------------------------------------------------------------


class _Explainer:
    """Explains one lane: its mismatch, its fault, or both if they have different causes."""

    def __init__(self, source: RunSource, lane: LaneReport, runner: Runner, live_models: bool) -> None:
        self._source = source
        self._report = lane
        self._runner = runner
        self._live_models = live_models

    def run(self) -> list[Divergence]:
        mismatch, fault = self._report.mismatch, self._report.fault
        found: list[Divergence] = []
        told = False
        if mismatch is not None:
            turn = _turn_of(mismatch)
            seen = circumstances(self._source, self._report.lane, turn)
            other = None if mismatch.actual is None else other_path_turn(mismatch.actual.outcome)
            if other is not None:
                return [self._of_path(mismatch, other)]
            told = fault is not None and explains(fault, seen, mismatch.expected)
            found.append(self._of_turn(seen, mismatch, fault))
        if fault is not None and not told and (mismatch is None or fault.turn < _turn_of(mismatch)):
            turn = _first_use(self._source, fault) or fault.turn
            found.insert(0, self._of_turn(circumstances(self._source, fault.lane, turn), None, fault))
        return found

    def _of_path(self, mismatch: Mismatch, turn: int) -> Divergence:
        """Explain a call whose re-run takes another path at an earlier step: that step is what differs."""
        assert mismatch.actual is not None
        assert type(mismatch.actual.outcome) is Failed
        seen = circumstances(self._source, self._report.lane, turn)
        trials = self._trials(seen, caught=True)
        expected, actual = seen.task, _executed(seen.task, trials)
        finding = find_cause(Case(self._source, self._runner, seen, expected, actual, None, trials))
        finding = finding._replace(evidence=(mismatch.actual.outcome.log[-1], *finding.evidence))
        return self._put(finding, seen, expected, actual, None, trials)

    def _of_turn(self, seen: Circumstances, mismatch: Mismatch | None, fault: Fault | None) -> Divergence:
        trials = self._trials(seen, caught=False)
        expected = seen.task if mismatch is None else mismatch.expected
        actual = None if mismatch is None else mismatch.actual
        case = Case(self._source, self._runner, seen, expected, actual, fault, trials)
        finding = find_cause(case)
        if finding.turn != seen.turn:  # the fault lies before the turn that shows it
            seen = circumstances(self._source, seen.lane, finding.turn)
            trials = self._trials(seen, caught=True)
            expected, actual = seen.task, _executed(seen.task, trials)
        elif mismatch is None:
            actual = _executed(expected, trials)
        return self._put(finding, seen, expected, actual, fault, trials)

    def _put(
        self, finding: FoundCause, seen: Circumstances, expected: Task | None, actual: Task | None, fault: Fault | None,
        trials: Trials | None,
    ) -> Divergence:  # fmt: skip
        task = expected or actual
        told = (None, None) if task is None else (task.seq, task.address)
        states = (_state(seen.state, expected, trials), _state(_state_of(trials, actual), actual, trials))
        parts = _parts(expected, actual, states)
        code = None if task is None else task.code
        record = (
            fault.number if fault is not None and finding.why.startswith(f"record {fault.number}:") else seen.record
        )
        pool = None if code is None else pool_of(code)
        origin = seen.origin
        if origin is None and fault is not None:
            found = record_at(self._source, fault.number)
            origin = None if found is None else root_input(fault.number, found)
        return Divergence(
            lane=seen.lane, turn=seen.turn, seq=told[0], target=told[1], kind=None if task is None else task.run.kind,
            cause=finding.cause, why=finding.why, evidence=finding.evidence, record=record, origin=origin,
            parents=seen.parents, expected=_side(expected, states[0], "recorded"),
            actual=_side(actual, states[1], "executed"), differs=tuple([one.name for one in parts]),
            bytes_differ=_all_bytes(parts),
            code_digest=None if code is None else code.digest, recorded_by=seen.worker,
            here=() if pool is None or seen.worker is None else facts_here(self._runner, pool), last_good=None,
            unproved=(), command=self._command(seen, finding),
        )  # fmt: skip

    def _trials(self, seen: Circumstances, *, caught: bool) -> Trials | None:
        if seen.task is None:
            return None
        source = None if seen.fold is None else seen.fold.provenance
        models = self._live_models or (source is not None and source.result_class == BITWISE)
        return trials_at(self._source, seen.lane, seen.turn, self._runner, live_models=models, caught=caught)

    def _command(self, seen: Circumstances, finding: FoundCause) -> str:
        words = ["rota", "verify", self._source.name, "--lane", self._report.lane]
        if seen.task is not None:  # else it has not retired, and only executing the whole lane reaches it
            if not finding.needs_lane:
                words += ["--from", str(seen.turn)]
            last = self._report.mismatch and _turn_of(self._report.mismatch)
            words += ["--to", str(max(seen.turn, last or seen.turn))]
        return shlex.join([*words, *(["--live-models"] if self._live_models else [])])


def _of_damage(source: RunSource, damage: Damage) -> Divergence:
    seen = None if damage.lane is None or damage.turn is None else circumstances(source, damage.lane, damage.turn)
    words = ["rota", "verify", source.name] + ([] if damage.lane is None else ["--lane", damage.lane])
    task = None if seen is None else seen.task
    return Divergence(
        lane=damage.lane, turn=damage.turn, seq=None if task is None else task.seq,
        target=None if task is None else task.address, kind=None if task is None else task.run.kind,
        cause=damage.cause, why=damage.why, evidence=(), record=damage.record,
        origin=None if seen is None else seen.origin,
        parents=() if seen is None else seen.parents, expected=None, actual=None, differs=(), bytes_differ=(),
        code_digest=None if task is None or task.code is None else task.code.digest, recorded_by=None, here=(),
        last_good=damage.last_good, unproved=damage.unproved[:UNPROVED_MAX], command=shlex.join(words),
    )  # fmt: skip


def _first_use(source: RunSource, fault: Fault) -> int | None:
    """Return the first turn that ran the code of a deploy; None for other records, or if none did."""
    code: Code | None = None
    with contextlib.suppress(JournalError):
        for step in Walk(source).steps():
            if step.number == fault.number and isinstance(step.record, records.Deployed):
                code = step.record.code
            if step.number >= fault.number and code is None:
                return None
            for task in step.retired(fault.lane):
                if code is not None and task.code == code:
                    return task.turn
    return None


# --- the two sides --------------------------------------------------------------------------------


class _State(NamedTuple):
    """A state, as far as it is known. `how`: recorded, executed, unchanged (as before the turn), digest (only that)."""

    data: bytes | None
    how: str | None


def _turn_of(mismatch: Mismatch) -> int:
    task = mismatch.expected or mismatch.actual
    assert task is not None
    return task.turn


def _executed(expected: Task | None, trials: Trials | None) -> Task | None:
    """Return the task with the outcome of executing it alone."""
    if expected is None or trials is None or not trials.first.outcomes:
        return None
    task = copy(expected)
    outcome = task.outcome = trials.first.outcomes[0]
    task.provenance = trials.first.provenance
    task.state_digest = (
        trials.digest_after(outcome) if task.code is not None and kind_of(task.code).keeps_state else None
    )
    task.turn_digest = None
    return task


def _state_of(trials: Trials | None, task: Task | None) -> bytes | None:
    """Return the state that a task left when executed, if executing it alone gives the same outcome."""
    if trials is None or task is None or not trials.first.outcomes:
        return None
    return trials.first.state if effect_of(trials.first.outcomes[0]) == effect_of(task.outcome) else None


def _state(changed: bytes | None, task: Task | None, trials: Trials | None) -> _State:
    """Return the state after a task; `changed` is the new one if the task changed it."""
    if task is None or task.state_digest is None:
        return _State(None, None)
    if type(task.outcome) is Done and task.outcome.state_digest is None:
        return _State(None if trials is None else trials.fold.state, "unchanged")
    return _State(changed, "digest" if changed is None else "known")


def _parts(expected: Task | None, actual: Task | None, states: tuple[_State, _State]) -> list[Part]:
    if expected is None or actual is None:
        return []
    parts = turn_parts(expected, actual)
    if states[0].data is not None and states[1].data is not None:
        found = part("state", states[0].data, states[1].data)
        parts += [] if found is None else [found]
    if not parts:  # what verify compares besides
        found = part("state bytes", state_bytes(expected), state_bytes(actual))
        parts += [] if found is None else [found]
    return parts


def _side(task: Task | None, state: _State, known: str) -> dict[str, Any] | None:
    """Return a task's outcome and state as one structure."""
    if task is None or task.outcome is None:
        return None
    outcome = task.outcome
    facts: dict[str, Any] = {"ok": type(outcome) is Done, "postponed": is_postponed(outcome)}
    if type(outcome) is Failed:
        facts |= {"kind": outcome.kind, "message": outcome.message}
    else:
        assert type(outcome) is Done
        facts |= {
            "result": outcome.result,
            "tensors": [ref._asdict() for ref in outcome.tensors],
            "emits": [emit._asdict() for emit in outcome.emits],
        }
    return facts | {
        "state_digest": task.state_digest,
        "state": state.data,
        "state_from": known if state.how == "known" else state.how,
        "fuel": outcome.fuel,
        "log": list(outcome.log),
        "provenance": None if task.provenance is None else task.provenance._asdict(),
        "lane_digest": task.turn_digest,
    }


def _all_bytes(parts: list[Part]) -> tuple[Bytes, ...]:
    """Return where bytes differ. Digests are left out, since the place tells nothing."""
    return tuple([_bytes(one.name, one.first) for one in parts if one.first is not None and "digest" not in one.name])


def _bytes(what: str, found: ByteDifference) -> Bytes:
    one, other = found.windows
    shown = [readable(window, VALUE_CHARS_MAX) for window in (one, other)]
    return Bytes(
        what, found.at, *found.sizes, found.window_at, one.hex(), other.hex(), *[str(each.text) for each in shown]
    )
