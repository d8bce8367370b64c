"""Formats answers of `rota log`, `show`, `story` and `state`: aligned, bounded, coloured.

Functions here take the findings of runs/ and return lines; commands print them. Colour only repeats what a word says;
click omits it if the output is not a terminal. Payload bytes are never printed raw to a terminal.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import click

from rota.broker.asks import is_postponed
from rota.cli.call_views import call_lines, later_text, message_place, summary
from rota.cli.model_numbers import provenance_text
from rota.common.work import ASK, TIMER, Code, Done, Emit, Failed, failure_text
from rota.engine.waits import outcome_word
from rota.runs.calls import CallTrace
from rota.runs.log import LogEntry
from rota.runs.questions import Family
from rota.runs.readable import cut, readable, size_text
from rota.runs.states import AgentState
from rota.runs.traces import Trace
from rota.runs.tree import RootInput

PIPE_COLUMNS: Final = 160  # if the output is not a terminal
LOG_PIPE_COLUMNS: Final = 1_000  # lines of the log are bounded anyway
_COLUMNS_MIN: Final = 80
_TIME_MS_MAX: Final = 253_402_300_799_999  # the year 9999
_TIME_CHARS: Final = 23
_NAME_CHARS: Final = 14
_LOG_LINES: Final = 40
_STATE_CHARS: Final = 4_000
_HEX_BYTES: Final = 256


def columns(pipe_columns: int = PIPE_COLUMNS) -> int:
    """Return the width of a line."""
    return max(shutil.get_terminal_size().columns, _COLUMNS_MIN) if sys.stdout.isatty() else pipe_columns


def time_text(now_ms: int | None) -> str:
    """Return a time in UTC, or `-`."""
    if now_ms is None:
        return "-"
    if not 0 <= now_ms <= _TIME_MS_MAX:
        return f"{now_ms} ms"
    return datetime.fromtimestamp(now_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S") + f".{now_ms % 1000:03}"


def marked(word: str) -> str:
    """Return an outcome or stage in its colour."""
    return click.style(word, fg="green" if word == "ok" else "yellow" if word in _UNDECIDED else "red")


def asker_text(origin: RootInput) -> str:
    """Return who asked for an input."""
    return "the broker" if origin.producer is None else f"submit {origin.number} of {cut(origin.producer, 60)}"


_UNDECIDED: Final = ("waiting", "issued", "postponed", "waits")


# --- rota log -------------------------------------------------------------------------------------


def log_title() -> str:
    """Return the titles above the lines of `rota log`."""
    return f"{'record':>8}  {'time (UTC)':{_TIME_CHARS}}  {'kind':12}  {'lane':10}  {'position':>8}  what"


def log_line(entry: LogEntry, width: int) -> str:
    """Return one record in one line."""
    lane, position = cut(entry.lane or "-", 10), "-" if entry.position is None else str(entry.position)
    head = f"{entry.number:>8}  {time_text(entry.now_ms):{_TIME_CHARS}}  "
    kind = click.style(f"{entry.kind:12}", fg="red" if entry.alarm else "cyan")
    tail = f"  {lane:10}  {position:>8}  "
    room = max(width - len(head) - 12 - len(tail), 40)
    return f"{head}{kind}{tail}{cut(entry.text, room)}"


# --- rota show ------------------------------------------------------------------------------------


def show_lines(family: Family, call: CallTrace | None, width: int) -> Iterator[str]:
    """Yield the lines of `rota show`; `call`: the call to which the task is a message."""
    trace = family.trace
    began = call is not None and call.turn == trace.turn
    mark = call.mark if call is not None and began else trace.mark
    yield (
        click.style(f"task {trace.seq}", bold=True)
        + f"  {trace.target}  {trace.kind}  {marked(mark)}  (lane {trace.lane}, turn {trace.turn})"
    )
    if call is not None and not began:
        yield f"{message_place(call, trace)} of call {summary(call)}"
    room = max(width - _NAME_CHARS - 4, 40)
    yield from _section("came from", _source_facts(family, room))
    if call is not None and began:
        yield ""
        yield click.style("call", bold=True)
        yield from call_lines(call, width)
    for title, facts in (
        ("schedule", _schedule_facts(trace)),
        ("execution", _execution_facts(family, room)),
        ("outcome of its first step" if began else "outcome", _outcome_facts(trace, call, room)),
        ("answered later", iter(()) if began else _later_facts(trace, room)),
        ("effect", _effect_facts(trace)),
    ):
        yield from _section(title, facts)
    yield from _children_lines(family, width)


def _section(title: str, facts: _Facts) -> Iterator[str]:
    """Yield a title and its facts; nothing if there are none."""
    for place, (name, value) in enumerate(facts):
        if not place:
            yield ""
            yield click.style(title, bold=True)
        yield f"  {name:{_NAME_CHARS}}  {value}"


_Facts = Iterator[tuple[str, str]]


def _source_facts(family: Family, room: int) -> _Facts:
    trace, chain = family.trace, family.root.chain
    if trace.parent is not None:
        turn, emit = trace.parent
        above = f"task {chain[0].seq} {chain[0].target}, " if chain else ""
        yield "parent", f"{above}turn {turn}, {'its reply' if trace.reply_to else f'emit {emit}'}"
    if len(chain) > 1:
        yield "first", f"task {chain[-1].seq} {chain[-1].target}, {len(chain)} above this one"
    if family.origin is None:
        yield "input", "before the records that are kept"
    else:
        origin = family.origin
        again = "" if origin.retry_of is None else f", dead task {origin.retry_of} again"
        within = f", within {origin.deadline_ms:,} ms" if origin.deadline_ms and trace.parent is None else ""
        arrived = time_text(origin.now_ms)
        yield "input", f"record {origin.record}, {asker_text(origin)}{again}, arrived {arrived}{within}"
    yield "sender", trace.sender or "outside"
    if trace.answers:
        yield "handed on", f"its outcome is the answer of turn {trace.answers}"
    if trace.reply_to is not None:
        asked = trace.reply_to
        yield "answers", f"turn {asked.turn}, asked in turn {asked.asked_in} as emit {asked.emit}"
    yield "now", f"{time_text(trace.now_ms)} ({trace.now_ms} ms), as the task sees it"
    yield "priority", str(trace.priority)
    yield "payload", str(readable(trace.payload, room))
    for ref in trace.tensors:
        yield "tensor", f"{ref.dtype} {list(ref.shape)} {ref.digest.hex()}"
    if trace.retried_as:
        yield "retried as", ", ".join([f"task {seq}" for seq in trace.retried_as])


def _schedule_facts(trace: Trace) -> _Facts:
    yield "stamped", _when(trace.stamped, trace.stamped_at)
    if not trace.bound:
        yield "issued", "not yet: it waits"
        return
    place = "" if trace.place is None else f", place {trace.place} in the line"
    yield "issued", _when(trace.issued, trace.issued_at) + place
    if trace.code is None:
        yield "code", "its name was not deployed"
    else:
        yield from _code_facts(trace.code)
    yield "emits allowed", str(trace.emits_max)
    yield "entropy", trace.entropy.hex()


def _code_facts(code: Code) -> _Facts:
    kind = f"{code.kind} flow" if code.flow else code.kind
    yield "code", f"{kind} {code.digest.hex()}" + (", instance reused" if code.reuse else "")
    limits = code.limits
    yield "limits", f"fuel {limits.fuel:,}, memory {size_text(limits.memory_bytes)}, {limits.timeout_ms:,} ms"
    sizes = (
        ("result", limits.result_bytes),
        ("state", limits.state_bytes),
        ("log", limits.log_bytes),
        ("new tensors", limits.tensor_bytes),
    )
    yield "", ", ".join([f"{name} {size_text(size)}" for name, size in sizes]) + f", {limits.emits_max} emits"
    if code.flow:
        yield "", f"a call: {limits.steps_max:,} messages of {size_text(limits.call_bytes)}, fuel {limits.call_fuel:,}"


def _execution_facts(family: Family, room: int) -> _Facts:
    trace = family.trace
    if trace.decision is not None:
        decision = trace.decision
        yield "decided", f"{decision.kind} in record {decision.number} at {time_text(decision.now_ms)}"
    if trace.completion is not None:
        done, fold = trace.completion, trace.completion.fold
        yield "completed", f"record {done.number} at {time_text(done.now_ms)}, {_after_ms(done.now_ms - trace.now_ms)}"
        yield "worker", cut(done.worker, room)
        together = "" if done.tasks == 1 else f", for all {done.tasks} tasks of its assignment"
        yield "elapsed", f"{done.elapsed_us / 1000:.3f} ms{together}"
        if len(fold) > 1:
            yield "fold", f"{fold.index(trace.turn) + 1} of {len(fold)} in one go, turns {fold[0]} to {fold[-1]}"
    elif trace.outcome is None:
        yield "completed", "not yet"
    else:
        yield "completed", "no execution gave an outcome" if trace.completed else "before the records that are kept"
    if family.worker is not None:
        worker = family.worker
        facts = ", ".join([f"{name} {value}" for name, value in worker.facts.items()])
        yield "fingerprint", cut(f"{worker.number}, pool {worker.pool}: {facts}", room)  # --json has all of it
    if trace.provenance is not None:
        source = trace.provenance
        yield "computed", provenance_text(source)
        yield "model fingerprint", source.fingerprint.hex()
    yield "attempts", "not in the journal"


def _outcome_facts(trace: Trace, call: CallTrace | None, room: int) -> _Facts:
    outcome = trace.outcome
    if outcome is None:
        yield "none yet", f"the task is {trace.stage}"
        return
    if type(outcome) is Done and is_postponed(outcome):
        yield trace.mark, f"at {cut(outcome.waits, room)}" if outcome.waits else "no result yet"
    elif type(outcome) is Done:
        yield "ok", "no result" if outcome.result is None else str(readable(outcome.result, room))
        for ref in outcome.tensors:
            yield "tensor", f"{ref.dtype} {list(ref.shape)} {ref.digest.hex()}"
    else:
        assert type(outcome) is Failed
        yield outcome.kind, cut(failure_text(outcome.kind, outcome.message, outcome.log), room)
    yield "fuel", f"{outcome.fuel:,}"
    yield "state before", _digest(trace.state_before)
    changed = type(outcome) is Done and outcome.state_digest is not None
    yield "state after", _digest(trace.state_after) + ("" if changed else " (as it was)")
    for line in outcome.log[:_LOG_LINES]:
        yield "log", cut(line, room)
    if len(outcome.log) > _LOG_LINES:
        yield "log", f"and {len(outcome.log) - _LOG_LINES} more lines: --json has them all"
    if type(outcome) is Done:
        for index, emit in enumerate(outcome.emits):
            yield f"emit {index}", _emit_text(trace, call, index, emit, room)


def _later_facts(trace: Trace, room: int) -> _Facts:
    """Yield what happened to an open ask; nothing for a task that is answered by its own outcome."""
    for later in trace.later:
        yield later.what.replace("_", " "), cut(later_text(later, room), room)
    if trace.later and trace.answer is None:
        yield "open", f"{trace.later[-1].owner} owes the answer"


def _emit_text(trace: Trace, call: CallTrace | None, index: int, emit: Emit, room: int) -> str:
    stamps = [child for child in trace.children if child.emit == index]
    if stamps:
        became = f"task {stamps[0].seq}"
    elif emit.answers and emit.kind != ASK and trace.retired_at is not None:
        became = "final for whoever asked"
    elif emit.kind == TIMER and call is not None and call.end is not None:
        became = "dropped when the call ended"
    elif emit.kind == TIMER and trace.retired_at is not None:
        became = f"waits until {time_text(trace.now_ms + emit.delay_ms)}"
    else:
        became = "stamped when the task retires"
    word = "within" if emit.kind == ASK else "after"
    delay = f" {word} {emit.delay_ms:,} ms" if emit.delay_ms else ""
    priority = f", priority {emit.priority}" if emit.priority else ""
    answers = f", as the answer of turn {emit.answers}" if emit.answers else ""
    head = f"{emit.kind} {emit.target}{delay}{priority}{answers}, {became}: "
    return head + str(readable(emit.payload, max(room - len(head), 20)))


def _effect_facts(trace: Trace) -> _Facts:
    if trace.retired_at is None:
        yield "retired", "not yet"
        return
    yield "retired", _when(trace.retired, trace.retired_at)
    yield "lane digest", _digest(trace.digest)


def _children_lines(family: Family, width: int) -> Iterator[str]:
    children = family.trace.children
    if children:
        yield ""
        yield click.style(f"children ({len(children)})", bold=True)
        for child in children:
            known = family.below.get(child.turn)
            mark = "-" if known is None else marked(known.mark)
            yield f"  task {child.seq}  turn {child.turn}  {child.target}  {child.kind}  {mark}"


def _when(record: int | None, position: int | None) -> str:
    if record is None:
        return "before the records that are kept"
    return f"record {record} at position {position}"


def _after_ms(passed_ms: int) -> str:
    return f"{passed_ms:,} ms after its now" if passed_ms >= 0 else "its now was pinned to later"


def _digest(digest: bytes | None) -> str:
    return "none" if digest is None else digest.hex()


# --- rota story -----------------------------------------------------------------------------------


def story_title(width: int) -> str:
    """Return the titles above the lines of `rota story`."""
    payload, outcome = _story_widths(width)
    return (
        f"{'turn':>8}  {'seq':>8}  {'kind':7}  {'sender':16}  {'payload':{payload}}  {'outcome':{outcome}}  "
        f"{'state':19}  emits"
    )


def story_line(trace: Trace, width: int) -> str:
    """Return the line of one message."""
    payload, outcome = _story_widths(width)
    shown = readable(trace.payload, payload)
    mark, text = _outcome_text(trace, outcome)
    word = cut(text, outcome)
    colored = word.replace(mark, marked(mark), 1) + " " * (outcome - len(word))
    return (
        f"{trace.turn:>8}  {trace.seq:>8}  {trace.kind:7}  {cut(trace.sender or '-', 16):16}  "
        f"{shown.text or '(empty)':{payload}}  {colored}  {_state_change(trace):19}  {_emits_text(trace)}"
    ).rstrip()


def _story_widths(width: int) -> tuple[int, int]:
    room = max(width - 95, 40)
    return room // 2, room - room // 2


def _outcome_text(trace: Trace, room: int) -> tuple[str, str]:
    """Return the outcome in a word, and with what it holds: of a whole call its answer, or where it waits now."""
    outcome = trace.outcome
    waits = trace.waits_now or (outcome.waits if type(outcome) is Done else None)
    if trace.is_whole_call and trace.answer is not None:
        outcome = trace.answer.outcome
    mark = trace.stage if outcome is None else outcome_word(outcome, trace.target)
    if type(outcome) is Failed:
        return mark, f"{mark}: {outcome.message}"
    if type(outcome) is Done and outcome.result:
        return mark, f"ok {readable(outcome.result, room).text}"
    return mark, f"{mark} {waits}" if waits and is_postponed(outcome) else mark


def _state_change(trace: Trace) -> str:
    if type(trace.outcome) is not Done or trace.outcome.state_digest is None:
        return "="
    before = "-" if trace.state_before is None else trace.state_before.hex()[:8]
    return f"{before}\N{RIGHTWARDS ARROW}{trace.outcome.state_digest.hex()[:8]}"


def _emits_text(trace: Trace) -> str:
    if type(trace.outcome) is not Done or not trace.outcome.emits:
        return ""
    targets = list(dict.fromkeys([emit.target for emit in trace.outcome.emits]))
    more = f" and {len(targets) - 2} more" if len(targets) > 2 else ""
    return f"{len(trace.outcome.emits)}: {', '.join(targets[:2])}{more}"


# --- rota state -----------------------------------------------------------------------------------


def state_facts(found: AgentState) -> Iterator[tuple[str, str]]:
    """Yield the facts of a state, its content last."""
    yield "agent", found.address
    at = f"turn {found.turn} of " if found.turn else ""
    yield "after", f"{at}lane {found.lane}, position {found.position}"
    yield "messages", f"{found.tasks} retired until then"
    if found.left_by is not None:
        yield "left by", f"turn {found.left_by.turn}, task {found.left_by.seq}"
    yield "digest", _digest(found.digest)
    how = {"recorded": "the journal", "executed": "executing its turn again, to the recorded digest"}
    if found.state is not None:
        yield "from", how[found.how]
        yield "size", size_text(len(found.state))


def state_lines(state: bytes | None) -> Iterator[str]:
    """Yield a state as text, or as a hex dump with readable characters."""
    if state is None:
        yield "(no state)"
        return
    shown = readable(state, _STATE_CHARS)
    if shown.form != "bytes":
        yield f"({shown.form})" if shown.form == "empty" else f"({shown.form}) {shown.text}"
        return
    for start in range(0, min(len(state), _HEX_BYTES), 16):
        row = state[start : start + 16]
        letters = "".join([chr(byte) if 32 <= byte < 127 else "." for byte in row])
        yield f"{start:08x}  {row.hex(' '):47}  {letters}"
    if len(state) > _HEX_BYTES:
        yield f"and {size_text(len(state) - _HEX_BYTES)} more: --raw FILE writes them all"
