"""Formats a call of a flow as one thing: each message, what its step waited for, and how the call ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rota.common.work import TIMER, Done, Failed, failure_text
from rota.runs.calls import CallEnd, CallTrace, CallWait
from rota.runs.later import AskEvent
from rota.runs.readable import cut, readable
from rota.runs.traces import Trace

STEPS_SHOWN: Final = 40
_STEP_LOG_LINES: Final = 10
_INDENT: Final = "    "
_TARGET_CHARS: Final = 40


def call_lines(call: CallTrace, width: int) -> Iterator[str]:
    """Yield a call: a summary, then its messages with their waits; of a long one the first and the last messages."""
    yield f"  {'call':14}  {summary(call)}"
    if call.end is not None and call.end.outcome is not None:
        yield f"  {'answer':14}  {cut(_answer_text(call.end, width), max(width - 18, 40))}"
    for step in call.before[-STEPS_SHOWN:]:
        task = step.task
        yield f"  turn {task.turn}  {_from(task.kind, task.sender)}, before the records that are kept: {step.path}"
    shown = call.messages[:STEPS_SHOWN] if len(call.messages) <= STEPS_SHOWN else call.messages[: STEPS_SHOWN // 2]
    yield from _messages(call, shown, width)
    if len(call.messages) > STEPS_SHOWN:
        yield f"  and {len(call.messages) - STEPS_SHOWN} between: rota story {call.address} has them all"
        yield from _messages(call, call.messages[-STEPS_SHOWN // 2 :], width)
    for trace in call.coming[:STEPS_SHOWN]:
        what = "came after its end" if call.end is not None else "not given to it yet"
        yield f"  turn {trace.turn}  task {trace.seq}  {_from(trace.kind, trace.sender)}  {what}"


def summary(call: CallTrace) -> str:
    """Return a call in one line: how many messages, fuel, and its end or where it waits."""
    steps = len(call.before) + len(call.messages)
    head = f"{call.address}, {steps} {'message' if steps == 1 else 'messages'}, {call.fuel:,} fuel in all"
    if call.end is None:
        return f"{head}; {waiting_text(call)}"
    return f"{head}; {_end_text(call.end)}"


def message_place(call: CallTrace, trace: Trace) -> str:
    """Return which message of a call a task is."""
    for place, message in enumerate(call.messages, len(call.before) + 1):
        if message.turn == trace.turn:
            first = call.messages[0]
            return f"message {place}" + (f", which task {first.seq} began," if first.turn == call.turn else "")
    return "a message that came after the end" if call.end is not None else "a message to come"


def waiting_text(call: CallTrace) -> str:
    """Return what a call that goes on waits for, and where."""
    where = f" at {cut(call.waits_at, 80)}" if call.waits_at else ""
    waits = [_open_text(wait) for wait in call.open]
    more = f" and {len(waits) - 4} more" if len(waits) > 4 else ""
    what = f" for {', '.join(waits[:4])}{more}" if waits else ""
    return f"waits{where}{what}"


def later_text(later: AskEvent, room: int) -> str:
    """Return in one line what happened to an open ask."""
    by = (
        f"turn {later.turn} of {later.address}, task {later.seq}"
        if later.turn is not None
        else f"record {later.record}"
    )
    where = f"{by}, position {later.position}"
    if later.outcome is None:
        return where
    head = f"{where}: "
    outcome = later.outcome
    if type(outcome) is Failed:
        return f"{head}{outcome.kind}: {outcome.message}"
    assert type(outcome) is Done
    return head + ("ok" if outcome.result is None else f"ok {readable(outcome.result, max(room - len(head), 20))}")


def _open_text(wait: CallWait) -> str:
    emit = wait.emit
    if emit.kind == TIMER:
        return f"a timer of {emit.delay_ms:,} ms"
    return cut(emit.target, _TARGET_CHARS) if wait.asked is None else f"{_target(wait.asked)} (task {wait.asked.seq})"


def _target(asked: Trace) -> str:
    return cut(asked.target, _TARGET_CHARS)


def _end_text(end: CallEnd) -> str:
    if end.turn is None:
        return f"{end.kind} in record {end.record} at position {end.position}"
    return f"{'returned' if end.kind == 'ok' else f'failed ({end.kind})'} in turn {end.turn}"


def _answer_text(end: CallEnd, width: int) -> str:
    outcome = end.outcome
    if type(outcome) is Failed:
        return f"{outcome.kind}: {failure_text(outcome.kind, outcome.message, outcome.log)}"
    assert type(outcome) is Done
    return "no result" if outcome.result is None else str(readable(outcome.result, width))


def _messages(call: CallTrace, messages: tuple[Trace, ...], width: int) -> Iterator[str]:
    for trace in messages:
        head = f"  turn {trace.turn}  task {trace.seq}  {_from(trace.kind, trace.sender)}: "
        yield head + readable(trace.payload, max(width - len(head), 20)).text
        for wait in call.waits:
            if wait.step is trace:
                yield cut(_wait_text(wait), width)
        log = () if trace.outcome is None else trace.outcome.log
        for line in log[:_STEP_LOG_LINES]:
            yield f"{_INDENT}log: {cut(line, max(width - 9, 20))}"
        if len(log) > _STEP_LOG_LINES:
            yield f"{_INDENT}log: and {len(log) - _STEP_LOG_LINES} more lines: rota show {trace.seq}"
        if type(trace.outcome) is Done and trace.outcome.waits:
            yield f"{_INDENT}waits at {cut(trace.outcome.waits, width - 13)}"
        elif call.end is not None and call.end.turn == trace.turn:
            yield f"{_INDENT}{_end_text(call.end)}"


def _wait_text(wait: CallWait) -> str:
    emit, answer = wait.emit, wait.answer
    if emit.kind == TIMER:
        what = f"sleeps {emit.delay_ms:,} ms"
        done = ": not yet" if answer is None else f": turn {answer.turn}{_took(wait)}"
    else:
        asked = wait.asked
        target = cut(emit.target, _TARGET_CHARS) if asked is None else f"{_target(asked)}, task {asked.seq}"
        within = f" within {emit.delay_ms:,} ms" if emit.delay_ms else ""
        what = f"asks {target}{within}"
        done = f": {'not asked yet' if asked is None else _so_far(asked)}"
        if answer is not None:
            done = f": {answer.kind} in turn {answer.turn}{_took(wait)}"
    return f"{_INDENT}{what}{done}"


def _so_far(asked: Trace) -> str:
    """Return what became of a task whose answer is not there."""
    owner = asked.later[-1].owner if asked.later else None
    return (
        f"not answered, it is {asked.mark}" if owner is None else f"not answered, {cut(owner, _TARGET_CHARS)} owes it"
    )


def _took(wait: CallWait) -> str:
    if wait.turns is None:
        return ""
    ms = "" if wait.ms is None else f", {wait.ms:,} ms"
    return f", {wait.turns} {'turn' if wait.turns == 1 else 'turns'}{ms} later"


def _from(kind: str, sender: str | None) -> str:
    return f"{kind} of {cut(sender, _TARGET_CHARS) if sender else 'outside'}"
