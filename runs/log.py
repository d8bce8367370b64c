"""The journal as lines: what each record says, and what it did. PURE.

One `LogEntry` per record. Its `text` is for people and bounded: long lists end in "and N more". Its `facts` are for
programs and complete, except that payloads, states and results are given as sizes (`rota show` has the bytes).
docs/INSPECT.md lists the facts of each kind; change both. A new kind of record needs a function here and a row in
`_SAY`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from rota.broker import records
from rota.broker.tasks import Run, Task
from rota.common.calls import call_of
from rota.common.columns import Addresses
from rota.common.targets import code_name
from rota.common.work import TELL, Code, Done, failure_text
from rota.engine.waits import outcome_word
from rota.runs.readable import cut, size_text
from rota.runs.walk import Step

KINDS: Final = tuple([kind.name.lower() for kind in records.Kind])

_TARGETS_SHOWN: Final = 3
_FACTS_CHARS_MAX: Final = 120
_DIGEST_CHARS: Final = 12


class LogEntry(NamedTuple):
    """One record. `position`: how many tasks its lane had retired before it. `alarm`: it reports a problem."""

    number: int
    kind: str
    lane: str | None
    position: int | None
    now_ms: int | None
    text: str
    alarm: bool
    facts: dict[str, Any]


def entry(step: Step) -> LogEntry:
    """Return the log entry of a record."""
    record, notes = step.record, step.notes
    kind, say = _SAY[type(record)]
    text, alarm, facts = say(record)
    effects = [text]
    computed = _computed(record)
    by_itself = [task for task in notes.finished if task.turn not in computed]
    if by_itself:
        outcomes = _outcomes([outcome_word(task.outcome, task.address) for task in by_itself if task.outcome])
        effects.append(f"completes {_ranges([task.seq for task in by_itself])}: {outcomes}")
    if notes.answered:
        words = _outcomes([outcome_word(task.outcome, task.address) for task in notes.answered if task.outcome])
        effects.append(f"answers {_ranges([task.seq for task in notes.answered])}: {words}")
    if notes.retired:
        position = step.position + len(notes.retired)
        effects.append(f"retires {_ranges([task.seq for task in notes.retired])} to position {position}")
    emitted = [run for run in notes.stamped if run.parent is not None or type(record) is not records.Submitted]
    if emitted:
        effects.append(f"stamps {_stamped(emitted)}")
    facts |= {
        "stamped": [_run_facts(run) for run in notes.stamped],
        "issued": [task.seq for task in notes.issued],
        "completed": [_task_facts(task) for task in notes.finished],
        "answered": [_task_facts(task) for task in notes.answered],
        "retired": [task.seq for task in notes.retired],
        "timers": len(notes.timers),
    }
    if step.lane is not None and notes.retired:
        facts["digest"] = notes.retired[-1].turn_digest
    if notes.timers:
        effects.append(f"sets {_count(len(notes.timers), 'timer')}")
    if type(record) is records.Completion:
        took = f"{record.elapsed_us / 1000:.1f} ms"
        effects.append(f"by {cut(record.worker, 40)} in {took}, fingerprint {record.fingerprint}")
    alarm = alarm or any(type(task.outcome) is not Done for task in (*notes.finished, *notes.answered))
    lane: str | None = getattr(record, "lane", None)
    position_before = None if lane is None else step.position
    now_ms: int | None = getattr(record, "now_ms", None)
    return LogEntry(step.number, kind.name.lower(), lane, position_before, now_ms, "; ".join(effects), alarm, facts)


def kind_of(record: records.Record) -> str:
    """Return the name of a record's kind."""
    return _SAY[type(record)][0].name.lower()


# --- which records concern a task or an agent -----------------------------------------------------


class Concern:
    """Selects the records that concern an agent, a task, or both. Call it with every record, in order."""

    def __init__(self, address: str | None, seq: int | None) -> None:
        self.met_address = address is None
        self.met_seq = seq is None
        self._address = address
        self._call = None if address is None else call_of(address)  # its first message is stamped for the bare name
        self._seq = seq
        self._place: tuple[str, int] | None = None  # lane and turn of the task

    def __call__(self, step: Step) -> bool:
        """Return whether a record concerns the agent and the task, where given."""
        return (self._address is None or self._of_agent(step, self._address)) and (
            self._seq is None or self._of_task(step, self._seq)
        )

    def _of_agent(self, step: Step, address: str) -> bool:
        notes, record = step.notes, step.record
        found = any(self._is_for(run, address) for run in notes.stamped) or any(
            _is_of(task.address, address) for tasks in (notes.issued, notes.finished, notes.retired) for task in tasks
        )
        if isinstance(record, records.Cancelled | records.Verdict):
            named = step.named_target  # a waiting task may be cancelled
            found = found or (named is not None and _is_of(named, address))
        self.met_address = self.met_address or found
        if isinstance(record, records.Deployed):
            return found or record.name == code_name(address)
        return found or (isinstance(record, records.Diverged) and _is_of(record.address, address))

    def _is_for(self, run: Run, address: str) -> bool:
        if _has_target(run, address):
            return True
        first = None if self._call is None else self._call - run.first_turn
        return first is not None and 0 <= first < len(run.payloads) and run.target(first) == code_name(address)

    def _of_task(self, step: Step, seq: int) -> bool:
        notes, record = step.notes, step.record
        for run in notes.stamped:
            if run.first_seq <= seq < run.first_seq + len(run.payloads):
                self.met_seq, self._place = True, (run.lane, run.first_turn + seq - run.first_seq)
                return True
        for tasks in (notes.issued, notes.finished, notes.retired):
            for task in tasks:
                if task.seq == seq:
                    self.met_seq, self._place = True, (task.run.lane, task.turn)
                    return True
        if isinstance(record, records.Diverged):
            return (record.lane, record.turn) == self._place
        if isinstance(record, records.DeadDropped):
            return seq in record.seqs
        if isinstance(record, records.Submitted):
            return record.retry_of == seq
        return isinstance(record, records.Cancelled | records.Verdict) and record.seq == seq


def _is_of(address: str, asked: str) -> bool:
    """Return whether a task of this address concerns the address asked for; a flow's name stands for all its calls."""
    return address == asked or (call_of(address) is not None and code_name(address) == asked)


def _has_target(run: Run, address: str) -> bool:
    return run.targets == address if type(run.targets) is str else address in run.targets


# --- what each kind says --------------------------------------------------------------------------

_Said = tuple[str, bool, dict[str, Any]]


def _epoch(record: records.Epoch) -> _Said:
    said = f"broker started, boot {record.boot}: {_facts(record.facts)}"
    return said, False, {"boot": record.boot, "facts": dict(record.facts)}


def _opened(record: records.Opened) -> _Said:
    settings = record.settings
    names = ", ".join([name for name, _ in record.deploys])
    said = f"{settings.policy} lane, window {settings.window}"
    said += (", paused" if record.paused else "") + (f", with {cut(names, _FACTS_CHARS_MAX)}" if names else "")
    facts = {**_origin(record), "settings": settings._asdict(), "paused": record.paused}
    return said + _by(record), False, facts | {"deploys": {name: code_facts(code) for name, code in record.deploys}}


def _submitted(record: records.Submitted) -> _Said:
    tasks = sum([len(run.payloads) for run in record.runs]) + (record.retry_of is not None)
    last = record.first_seq + tasks - 1
    said = f"{_count(tasks, 'task' if record.kind == TELL else record.kind)}, seq {_range(record.first_seq, last)}"
    if record.retry_of is None:
        said += f", to {_targets([target for run in record.runs for target in _run_targets(run.targets)])}"
    else:
        said += f", dead task {record.retry_of} again"
    if record.deadline_ms:
        said += f", within {record.deadline_ms:,} ms"
    runs = [
        {
            "targets": run.targets if type(run.targets) is str else tuple(run.targets),
            "priority": run.priority,
            "tasks": len(run.payloads),
            "payload_bytes": len(run.payloads.data),
        }
        for run in record.runs
    ]
    facts = {**_origin(record), "first_seq": record.first_seq, "tasks": tasks, "retry_of": record.retry_of}
    facts |= {"kind": record.kind, "deadline_ms": record.deadline_ms}
    return said + _by(record), False, facts | {"runs": runs}


def _deployed(record: records.Deployed) -> _Said:
    kind = record.code.kind + (" flow" if record.code.flow else "")
    said = f"{record.name} is {kind} {record.code.digest.hex()[:_DIGEST_CHARS]}"
    return said + _by(record), False, {**_origin(record), "name": record.name, "code": code_facts(record.code)}


def _cancelled(record: records.Cancelled) -> _Said:
    return f"task {record.seq} cancelled{_by(record)}", True, {**_origin(record), "seq": record.seq}


def _verdict(record: records.Verdict) -> _Said:
    text = failure_text(record.failure, record.message, record.log)
    said = f"task {record.seq} {record.failure}: {cut(text, _FACTS_CHARS_MAX)}"
    facts = {"seq": record.seq, "failure": record.failure, "message": record.message, "log": record.log}
    return said, True, facts


def _timer_fired(record: records.TimerFired) -> _Said:
    said = f"timer of turn {record.turn}, emit {record.index_of_emit}"
    return said, False, {"turn": record.turn, "index_of_emit": record.index_of_emit}


def _window_set(record: records.WindowSet) -> _Said:
    return f"window {record.window}{_by(record)}", False, {**_origin(record), "window": record.window}


def _pause_set(record: records.PauseSet) -> _Said:
    said = "paused" if record.paused else "released"
    return said + _by(record), False, {**_origin(record), "paused": record.paused}


def _seed_set(record: records.SeedSet) -> _Said:
    said = f"seed {record.seed.hex()[:_DIGEST_CHARS]}"
    return said + _by(record), False, {**_origin(record), "seed": record.seed}


def _snapshotted(record: records.Snapshotted) -> _Said:
    said = f"snapshot of the state after record {record.number}, {size_text(record.size_bytes)}"
    facts = {"snapshot_of": record.number, "digest": record.digest, "size_bytes": record.size_bytes}
    return said, False, facts | {"chain_digest": record.chain}


def _dead_dropped(record: records.DeadDropped) -> _Said:
    said = f"dead tasks forgotten: {_ranges(record.seqs) if record.seqs else 'all'}"
    return said + _by(record), False, {**_origin(record), "seqs": record.seqs}


def _completed(record: records.Completion) -> _Said:
    outcomes = _outcomes([outcome_word(outcome, fold.address) for fold in record.folds for outcome in fold.outcomes])
    said = f"{outcomes} of {_targets([fold.address for fold in record.folds])}"
    folds = [
        {
            "address": fold.address,
            "turns": fold.turns,
            "state_bytes": None if fold.state is None else len(fold.state),
            "provenance": None if fold.provenance is None else fold.provenance._asdict(),
        }
        for fold in record.folds
    ]
    facts = {"worker": record.worker, "elapsed_us": record.elapsed_us, "fingerprint_number": record.fingerprint}
    return said, False, facts | {"folds": folds}


def _mark(record: records.Mark) -> _Said:
    said = f"{record.retired} retired, digest {record.digest.hex()[:_DIGEST_CHARS]}, met"
    return said, False, {"marked": record.retired, "digest": record.digest}


def _diverged(record: records.Diverged) -> _Said:
    said = f"turn {record.turn} of {record.address} came out differently at {record.worker}; the first outcome stands"
    facts = {"turn": record.turn, "address": record.address, "worker": record.worker}
    return said, True, facts | {"kept_digest": record.kept, "other_digest": record.other}


def _fingerprint(record: records.Fingerprint) -> _Said:
    said = f"fingerprint {record.number}, pool {record.pool}: {_facts(record.facts)}"
    return said, False, {"fingerprint_number": record.number, "pool": record.pool, "facts": dict(record.facts)}


_SAY: Final[dict[type, tuple[records.Kind, Callable[[Any], _Said]]]] = {
    records.Epoch: (records.Kind.EPOCH, _epoch),
    records.Opened: (records.Kind.OPENED, _opened),
    records.Submitted: (records.Kind.SUBMITTED, _submitted),
    records.Deployed: (records.Kind.DEPLOYED, _deployed),
    records.Cancelled: (records.Kind.CANCELLED, _cancelled),
    records.Verdict: (records.Kind.VERDICT, _verdict),
    records.TimerFired: (records.Kind.TIMER_FIRED, _timer_fired),
    records.WindowSet: (records.Kind.WINDOW_SET, _window_set),
    records.PauseSet: (records.Kind.PAUSE_SET, _pause_set),
    records.SeedSet: (records.Kind.SEED_SET, _seed_set),
    records.DeadDropped: (records.Kind.DEAD_DROPPED, _dead_dropped),
    records.Completion: (records.Kind.COMPLETION, _completed),
    records.Mark: (records.Kind.MARK, _mark),
    records.Diverged: (records.Kind.DIVERGED, _diverged),
    records.Fingerprint: (records.Kind.FINGERPRINT, _fingerprint),
    records.Snapshotted: (records.Kind.SNAPSHOTTED, _snapshotted),
}


# --- parts of lines -------------------------------------------------------------------------------


def code_facts(code: Code) -> dict[str, Any]:
    """Return the facts of a code, for programs."""
    return code._asdict() | {"limits": code.limits._asdict(), "exports": dict(code.exports)}


def _computed(record: records.Record) -> dict[int, None]:
    """Return the turns whose outcomes a record holds. Other tasks complete when they are issued."""
    if type(record) is not records.Completion:
        return {}
    return dict.fromkeys([turn for fold in record.folds for turn in fold.turns])


def _origin(record: Any) -> dict[str, Any]:
    return {"producer": record.origin.producer, "number": record.origin.number}


def _by(record: Any) -> str:
    origin = record.origin
    return f", by {cut(origin.producer, 40)} #{origin.number}" if origin.producer else ""


def _run_facts(run: Run) -> dict[str, Any]:
    return {
        "first_seq": run.first_seq,
        "first_turn": run.first_turn,
        "tasks": len(run.payloads),
        "targets": run.targets if type(run.targets) is str else tuple(run.targets),
        "kind": run.kind,
        "parent": run.parent,
    }


def _task_facts(task: Task) -> dict[str, Any]:
    assert task.outcome is not None
    return {
        "seq": task.seq,
        "turn": task.turn,
        "target": task.address,
        "outcome": outcome_word(task.outcome, task.address),
    }


def _run_targets(targets: str | Addresses) -> tuple[str, ...]:
    return (targets,) if type(targets) is str else tuple(targets)


def _targets(targets: Iterable[str]) -> str:
    unique = list(dict.fromkeys(targets))
    more = len(unique) - _TARGETS_SHOWN
    return ", ".join(unique[:_TARGETS_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _outcomes(words: Iterable[str]) -> str:
    """Return how many outcomes there are of each kind, `ok` first."""
    counts = Counter(words)
    return ", ".join([f"{counts[word]} {word}" for word in sorted(counts, key=lambda word: (word != "ok", word))])


def _stamped(runs: Sequence[Run]) -> str:
    seqs = [seq for run in runs for seq in range(run.first_seq, run.first_seq + len(run.payloads))]
    return f"{_ranges(seqs)} for {_targets([target for run in runs for target in _run_targets(run.targets)])}"


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as ranges: `1-3, 7 and 5 more`."""
    ranges: list[list[int]] = []
    ordered = sorted(numbers)
    for number in ordered:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    more = sum([last - first + 1 for first, last in ranges[_TARGETS_SHOWN:]])
    shown = ", ".join([_range(first, last) for first, last in ranges[:_TARGETS_SHOWN]])
    return shown + (f" and {more} more" if more else "")


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return cut(", ".join([f"{name} {value}" for name, value in facts]), _FACTS_CHARS_MAX)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
