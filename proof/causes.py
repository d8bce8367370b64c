"""Why a turn and its repetition differ: one of the causes of record_checks.py, with evidence.

Up to the turn before, all digests are equal, so the states of all agents, every stamped message and the order are too.
The cause therefore lies in the turn itself: in its code, in what no digest covers (time, entropy, the worker), or in
the recorded outcome. Each check below looks for one cause and the first that finds it decides. If none does, the
outcome was never computed: a corrupt record.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Final, NamedTuple

from rota.broker import records
from rota.broker.tasks import Task
from rota.broker.workers import flat_facts
from rota.common.code_kinds import kind_of
from rota.common.errors import JournalError
from rota.common.targets import code_name
from rota.common.work import BITWISE, REPLY, Failed, FoldResult
from rota.engine.engine import Runner
from rota.proof.trials import Trials, effect_of, effects_of, trials_at
from rota.runs.circumstances import Circumstances
from rota.runs.code_files import changed_code
from rota.runs.open import RunSource
from rota.runs.record_checks import CERTIFICATE, CODE, CORRUPT_RECORD, DEVICE, INPUT, ORDER, RUNTIME_VERSION, Fault
from rota.runs.walk import Walk, follows, record_at, replaced

NEIGHBOURS_MAX: Final = 8  # turns of the same agent that are tried as exchanged with this one
DECISIONS_MAX: Final = 4  # earlier ones on the same agent that are tried as false
DISPUTES_SHOWN: Final = 4

_RUNTIME_FACTS: Final = {"cpu": ("profile",), "gpu": ("runtime", "build", "package")}
_HOST_FACTS: Final = {"cpu": ("machine", "target"), "gpu": ("provider", "processor", "gpu", "environment")}


class FoundCause(NamedTuple):
    """A cause, why in one sentence, the turn at fault, and the evidence.

    `needs_lane`: to reproduce it the lane must be executed from its start; the turn alone does not show it.
    """

    cause: str
    why: str
    turn: int
    evidence: tuple[str, ...] = ()
    needs_lane: bool = False


class Case(NamedTuple):
    """What is known of a turn that differs, or that a fault is about (`actual` is None then)."""

    source: RunSource
    runner: Runner
    seen: Circumstances
    expected: Task | None
    actual: Task | None
    fault: Fault | None
    trials: Trials | None


def find_cause(case: Case) -> FoundCause:
    """Return why a turn differs."""
    for look in _LOOKS:
        found = look(case)
        if found is not None:
            return found
    return _elimination(case)


def explains(fault: Fault, seen: Circumstances, task: Task | None) -> bool:
    """Return whether a fault is about this turn, its message, its code or its lane."""
    sources = [seen.opened, seen.stamped, None if seen.origin is None else seen.origin.record]
    if task is not None and task.code is not None:
        sources.append(seen.deployed.get(task.code.digest))
    return fault.turn == seen.turn or fault.number in sources


def facts_here(runner: Runner, pool: str) -> tuple[tuple[str, str], ...]:
    """Return this machine's fingerprint as a Fingerprint record would have it."""
    return flat_facts(runner.fingerprint(pool))


def other_facts(pool: str, there: dict[str, str], here: dict[str, str], *, host: bool = False) -> list[str]:
    """Return the names of facts that differ: of the engine, or of the machine and its devices."""
    wanted = (_HOST_FACTS if host else _RUNTIME_FACTS)[pool]
    names = sorted(dict.fromkeys([*there, *here]))
    return [name for name in names if name.split(".")[0] in wanted and there.get(name) != here.get(name)]


# --- one check for each cause ---------------------------------------------------------------------


def _wrong_code(case: Case) -> FoundCause | None:
    task = case.expected or case.actual
    if task is None or task.code is None or case.actual is None:
        return None
    problem = changed_code(case.source, task.code, task.address)
    return FoundCause(CODE, problem, case.seen.turn) if problem else None


def _told_fault(case: Case) -> FoundCause | None:
    fault = case.fault
    if fault is None or fault.cause == CORRUPT_RECORD or not explains(fault, case.seen, case.expected):
        return None
    return FoundCause(fault.cause, f"record {fault.number}: {fault.text}", case.seen.turn)


def _other_turn(case: Case) -> FoundCause | None:
    """Check whether another task retired here, or none."""
    expected, actual = case.expected, case.actual
    if case.fault is not None and actual is None:
        return None
    if expected is None or actual is None:
        who, which = ("the run", "the repetition") if expected is None else ("the repetition", "the run")
        return FoundCause(ORDER, f"turn {case.seen.turn} retires in {which}, but not in {who}", case.seen.turn)
    if expected.turn == actual.turn:
        return None
    why = f"turn {expected.turn} retires in the run where turn {actual.turn} does in the repetition"
    return FoundCause(ORDER, why, case.seen.turn)


def _memory(case: Case) -> FoundCause | None:
    """Check whether the code is deterministic."""
    trials, task = case.trials, case.actual
    if trials is None or task is None or task.code is None or kind_of(task.code).has_provenance:
        return None
    name = repr(code_name(task.address))
    if trials.is_steady(task.outcome):
        if _is_about_fuel(case) and task.code.reuse and not trials.takes_the_same_fuel():
            why = f"{name} keeps memory between its tasks and runs out of fuel by it: deploy it without reuse or fix it"
            return FoundCause(CODE, why, case.seen.turn, ("a used instance takes other fuel than a new one",), True)
        return None
    fresh = _is_recorded(case, trials.first)
    said = "what the run has" if fresh else "neither what the run has nor what a used one gives"
    seen = _disputes(case, task.address)
    if task.code.reuse:
        why = f"{name} keeps memory between its tasks: deploy it without reuse or fix it"
        evidence = f"a new instance gives {said}, a used one something else"
        return FoundCause(CODE, why, case.seen.turn, (evidence, *seen), True)
    why = f"two executions of {name} from the same state and message differ: this engine or machine is not reliable"
    return FoundCause(CODE, why, case.seen.turn, (f"the first of them gives {said}", *seen), True)


def _exchanged(case: Case) -> FoundCause | None:
    """Check whether the turn's message or outcome was exchanged with that of a later turn of the same agent."""
    task, trials, seen = case.expected, case.trials, case.seen
    if task is None or trials is None or case.actual is None:
        return None
    row = [task]
    for other in seen.same_agent()[1][:NEIGHBOURS_MAX]:
        if other.turn in seen.decisions or other.code != task.code:
            return None
        row.append(other)
        recorded = [effect_of(one.outcome) for one in row]
        turns = f"turns {task.turn} and {other.turn} of {task.address}"
        if trials.of_row(row, [other, *row[1:-1], task]) == recorded:
            evidence = "executed with the two messages exchanged, both turns give what the run has"
            return FoundCause(ORDER, f"the messages of {turns} stand in the wrong order", task.turn, (evidence,))
        clean = trials.of_row(row, row)
        if clean != recorded and [clean[-1], *clean[1:-1], clean[0]] == recorded:
            evidence = "executed, each of the two turns gives what the run has for the other"
            return FoundCause(ORDER, f"the outcomes of {turns} are exchanged", task.turn, (evidence,))
    return None


def _false_decision(case: Case) -> FoundCause | None:
    """Check whether the turns behind a verdict or cancel were computed as if it had not happened."""
    task, seen = case.expected, case.seen
    if (
        task is None
        or task.outcome is None
        or case.actual is None
        or task.code is None
        or not kind_of(task.code).keeps_state
    ):
        return None
    if seen.task is None:
        return None  # it has not retired
    before = seen.same_agent()[0]
    caught = [place for place, one in enumerate(before) if one.turn in seen.decisions][-DECISIONS_MAX:]
    for place in reversed(caught):
        row = [*before[place:], task]
        trials = trials_at(case.source, seen.lane, row[0].turn, case.runner, caught=True)
        if trials is None or any(one.code != task.code for one in row):
            continue
        if trials.of_row(row, row)[1:] == [effect_of(one.outcome) for one in row[1:]]:
            turn, record = row[0].turn, seen.decisions[row[0].turn]
            why = f"the decision on turn {turn} in record {record} is not what happened: the task had another outcome"
            evidence = f"executed as if it was never caught, turn {seen.turn} gives what the run has"
            return FoundCause(CORRUPT_RECORD, why, turn, (evidence,), True)
    return None


def _seed(case: Case) -> FoundCause | None:
    effects = case.trials.with_default_seed() if case.trials is not None and case.actual is not None else None
    if effects is None or case.expected is None or effects != [effect_of(case.expected.outcome)]:
        return None
    why = f"the seed of lane {case.seen.lane!r} in record {case.seen.opened} is not the one that the run had"
    return FoundCause(INPUT, why, case.seen.turn, ("with the seed that follows from the lane's name it gives it",))


def _corrupt_fault(case: Case) -> FoundCause | None:
    fault = case.fault
    if fault is None or not explains(fault, case.seen, case.expected):
        return None
    return FoundCause(fault.cause, f"record {fault.number}: {fault.text}", case.seen.turn)


def _other_engine(case: Case) -> FoundCause | None:
    """Check whether another version of the engine computed the outcome, and nothing shows that it did not."""
    worker = case.seen.worker
    if worker is None or case.actual is None or worker.pool not in _RUNTIME_FACTS or _ran_under_one_fingerprint(case):
        return None
    there, here = dict(worker.facts), dict(facts_here(case.runner, worker.pool))
    names = other_facts(worker.pool, there, here)
    if not names or _marks(case) == (False, True):
        return None
    name = names[0]
    why = f"worker {worker.name!r} had {name} {there.get(name, 'none')!r}, here it is {here.get(name, 'none')!r}"
    return FoundCause(RUNTIME_VERSION, why, case.seen.turn, _tried(case))


def _other_device(case: Case) -> FoundCause | None:
    worker, expected, actual = case.seen.worker, case.expected, case.actual
    if worker is None or expected is None or actual is None or worker.pool not in _HOST_FACTS:
        return None
    if _ran_under_one_fingerprint(case):
        return None
    names = other_facts(worker.pool, dict(worker.facts), dict(facts_here(case.runner, worker.pool)), host=True)
    if expected.code is not None and kind_of(expected.code).has_provenance:
        one, other = expected.provenance, actual.provenance
        if one is None or other is None or (not names and one == other):
            return None
        why = (
            f"the model ran on {one.provider} (fingerprint {one.fingerprint.hex()[:12]}), here on {other.provider} "
            f"({other.fingerprint.hex()[:12]})"
        )
        return FoundCause(DEVICE, why, case.seen.turn, tuple([f"other here: {name}" for name in names[:8]]))
    if not names or _marks(case) != (True, False):
        return None
    why = f"worker {worker.name!r} ran on another machine ({', '.join(names)}), and the run went on with what it gave"
    return FoundCause(DEVICE, why, case.seen.turn, _tried(case))


def _ran_under_one_fingerprint(case: Case) -> bool:
    """Whether a model's result names the fingerprint that it has here, which says more than the worker's facts."""
    one, other = (None if task is None else task.provenance for task in (case.expected, case.actual))
    return one is not None and other is not None and one.fingerprint == other.fingerprint


def _broken_certificate(case: Case) -> FoundCause | None:
    """Check whether a model keeps the promise of its certificate, where the result is of the same fingerprint."""
    one, other = (None if task is None else task.provenance for task in (case.expected, case.actual))
    if case.trials is None or one is None or other is None or one.fingerprint != other.fingerprint:
        return None
    if case.actual is None or case.trials.is_steady(case.actual.outcome):
        return None
    why = (
        f"the model has certificate {one.certificate} under fingerprint {one.fingerprint.hex()[:12]} and gives another "
        "result when it is run again: the certificate is wrong (rota model probe --again)"
    )
    return FoundCause(CERTIFICATE, why, case.seen.turn, (), True)


def _elimination(case: Case) -> FoundCause:
    where = "the run" if case.seen.record is None else f"record {case.seen.record}"
    why = f"the outcome in {where} is not what this code gives for this message and state, on the same engine"
    evidence = list(_tried(case))
    source = None if case.expected is None else case.expected.provenance
    if source is not None and source.result_class == BITWISE and case.trials is not None:
        evidence.append(
            f"it is bitwise by certificate {source.certificate} under fingerprint {source.fingerprint.hex()[:12]}, "
            "which this host has; executed again several times, the model gives the same each time"
        )
    if case.trials is not None and case.seen.state is not None and case.trials.first.state is not None:
        same = case.seen.state == case.trials.first.state
        evidence.append(f"the state that was recorded is {'' if same else 'not '}the one that is executed")
    marks = _marks(case)
    if marks == (False, True):
        evidence.append("a later mark of the run is met with the executed outcome, and not with the recorded one")
    elif marks == (True, False):
        evidence.append("a later mark of the run is met with the recorded outcome: the broker went on with it")
    task, parents = case.expected, case.seen.parents
    evidence += [] if task is None else _disputes(case, task.address)
    if task is not None and task.run.kind == REPLY and parents and parents[0].target.startswith("model:"):
        evidence.append(f"its message is the result of a model, turn {parents[0].turn}, which is only read back")
    return FoundCause(CORRUPT_RECORD, why, case.seen.turn, tuple(evidence))


_LOOKS: Final[tuple[Callable[[Case], FoundCause | None], ...]] = (
    _wrong_code,
    _told_fault,
    _other_turn,
    _memory,
    _exchanged,
    _false_decision,
    _seed,
    _corrupt_fault,
    _other_engine,
    _other_device,
    _broken_certificate,
)


# --- evidence -------------------------------------------------------------------------------------


def _tried(case: Case) -> tuple[str, ...]:
    """Return what `_memory` found; every case with an agent or a function passes through it."""
    fold = None if case.trials is None else case.trials.fold
    if fold is None or kind_of(fold.code).has_provenance:
        return ()
    where = ", in new and in used instances," if fold.code.reuse else ","
    return (f"executed again several times{where} it gives the same each time",)


def _disputes(case: Case, address: str) -> tuple[str, ...]:
    """Return the records in which the broker itself was given two outcomes for one task of an agent."""
    return tuple(
        [
            f"record {record}: the broker was given two outcomes of turn {turn} of {address}"
            for record, turn, target in case.seen.disputes
            if target == address
        ]
    )[:DISPUTES_SHOWN]


def _is_about_fuel(case: Case) -> bool:
    """Return whether the turn ran out of fuel on one side."""
    outcomes = [task.outcome for task in (case.expected, case.actual) if task is not None]
    return any(type(outcome) is Failed and outcome.kind == "fuel" for outcome in outcomes)


def _is_recorded(case: Case, result: FoldResult) -> bool:
    return case.expected is not None and effects_of(result) == [effect_of(case.expected.outcome)]


def _marks(case: Case) -> tuple[bool, bool] | None:
    """Return whether the lane's next mark is met with the recorded outcome, and with the executed one.

    None if no mark can tell.
    """
    seen, trials = case.seen, case.trials
    if seen.fold is None or seen.record is None or trials is None or not trials.first.outcomes:
        return None
    mark = _next_mark(case.source, seen.lane, seen.record)
    if mark is None:
        return None
    place = seen.fold.turns.index(seen.turn)
    outcomes = list(seen.fold.outcomes)
    outcomes[place] = trials.first.outcomes[0]
    state = trials.first.state if seen.state is not None else seen.fold.state
    as_recorded = _meets_mark(case.source, seen, seen.fold, mark)
    as_executed = _meets_mark(case.source, seen, seen.fold._replace(outcomes=tuple(outcomes), state=state), mark)
    return None if as_recorded is None else (as_recorded, bool(as_executed))


def _next_mark(source: RunSource, lane: str, after: int) -> int | None:
    """Return the number of a lane's first mark after a record; cheap, since nothing is applied."""
    marks = (
        number
        for number, record in source.records()
        if isinstance(record, records.Mark) and record.lane == lane and number > after
    )
    try:
        return next(marks, None)
    except JournalError:  # the journal breaks off before it
        return None


def _meets_mark(source: RunSource, seen: Circumstances, fold: records.CompletedFold, mark: int) -> bool | None:
    """Return whether a mark is met with this fold in place of the journal's; None if the walk does not reach it."""
    assert seen.record is not None
    record = record_at(source, seen.record)
    assert isinstance(record, records.Completion)
    changed = record._replace(folds=tuple([fold if seen.turn in one.turns else one for one in record.folds]))
    walk = Walk(source)
    read = takewhile(lambda one: one[0] <= mark, replaced(source.records(), {seen.record: changed}))
    is_met = follows(walk, read)
    return is_met if walk.number == mark else None
