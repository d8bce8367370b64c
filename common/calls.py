"""Calls of flows and asks that are answered later: addresses, paths, sizes and texts that all sides share. PURE.

A *call* is an instance of a flow, with the address `name/~TURN` of the task that began it (execution model, part 11).
Nobody but the lane makes such addresses: a key of `~` and digits is reserved.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

import msgspec

from rota.common.digests import digest, pack
from rota.common.limits import MESSAGE_CHARS_MAX, PATH_CHARS_MAX
from rota.common.work import ASK, Code, Done, Emit, Failed, Outcome

SETTLED_KIND: Final = "error"  # of a failure with which an agent settles a turn
STEP_BYTES: Final = 256  # what a message of a call counts besides its content while the call lasts

_INSTANCE: Final = re.compile(r"\A[^/]+/~[0-9]+\Z").match
_OTHER_PATH: Final = re.compile(r"\A[^ ]+ takes another path at turn ([0-9]+): ").match
_EMITS_SHOWN: Final = 2
_failure: Final[msgspec.msgpack.Decoder[tuple[str, str]]] = msgspec.msgpack.Decoder(tuple[str, str])
_TARGET_CHARS: Final = 64


def instance_address(name: str, turn: int) -> str:
    """Return the address of the call of flow `name` that began as turn `turn`."""
    return f"{name}/~{turn}"


def is_instance(target: str) -> bool:
    """Return whether a target has the form of a call's address, so that nobody may send to it."""
    return _INSTANCE(target) is not None


def call_of(target: str) -> int | None:
    """Return the turn that began the call with this address; None if it is not the address of a call."""
    return int(target[target.index("/") + 2 :]) if _INSTANCE(target) is not None else None


def reserved_text(target: str) -> str:
    """Return why nobody may send to a call."""
    return f"{target!r} is a call of a flow, to which nobody else can send: keys of ~ and digits are reserved"


def keyed_call_text(name: str) -> str:
    """Return why a flow cannot be called with a key."""
    return f"{name!r} is a flow: send to {name!r}, each call is an instance of its own"


def path_of(emits: Sequence[Emit]) -> str:
    """Return what a step emitted, as a short text that two steps share only if they emitted the same."""
    if not emits:
        return "nothing"
    shown = [f"{emit.kind} {emit.target[:_TARGET_CHARS]} {_short(emit)}" for emit in emits[:_EMITS_SHOWN]]
    if len(emits) > _EMITS_SHOWN:
        shown.append(f"{len(emits) - _EMITS_SHOWN} more {_short(emits)}")
    return ", ".join(shown)[:PATH_CHARS_MAX]


def other_path_text(address: str, turn: int, before: str, now: str) -> str:
    """Return the reason of a worker whose re-run of a call's step took another path; it names both."""
    return f'{address} takes another path at turn {turn}: "{before}" before, "{now}" now'


def other_path_turn(outcome: Outcome | None) -> int | None:
    """Return the turn that takes another path by the outcome of a task that no worker could do; None: not by it."""
    if type(outcome) is not Failed or outcome.kind != "faulted" or not outcome.log:
        return None
    found = _OTHER_PATH(outcome.log[-1])
    return None if found is None else int(found[1])


def not_open_text(turn: int, address: str) -> str:
    """Return the message of `bad_settle` for a turn that the agent has not postponed, or has settled."""
    return f"turn {turn} is none that {address} has postponed and not settled"


def nobody_asked_text(turn: int) -> str:
    """Return the message of `bad_settle` for postponing a task whose answer nobody waits for."""
    return f"turn {turn} asked for nothing: only an ask, or a task from outside, can be postponed"


def failure_of(payload: bytes) -> tuple[str, str] | None:
    """Return kind and message of the failure with which an agent settles a turn, None if it is not MessagePack of
    these two texts. An agent can say only `error`; the other kinds are of what happened to a task itself.
    """
    try:
        found = _failure.decode(payload)
    except msgspec.DecodeError:
        return None
    return found if found[0] == SETTLED_KIND and len(found[1]) <= MESSAGE_CHARS_MAX else None


def open_after(open_turns: tuple[int, ...], turn: int, done: Done) -> tuple[int, ...]:
    """Return what an agent has postponed and not settled after a task, ascending, given what it had before.

    Asserts that the task settles and hands on only what is open; `settle_failure` says so of an outcome from outside.
    """
    left = open_turns  # there may be thousands, so they are not looked through
    if done.waits is not None:
        place = bisect_left(left, turn)
        left = (*left[:place], turn, *left[place:])
    for emit in done.emits:
        if emit.answers:
            assert _holds(left, emit.answers), f"turn {turn} settles turn {emit.answers}, which is not open"
            place = bisect_left(left, emit.answers)
            left = left[:place] + left[place + 1 :]
    return left


def settle_failure(
    address: str, asked: tuple[int, str, str | None], open_turns: tuple[int, ...], done: Done, code: Code
) -> tuple[str, str] | None:
    """Return kind and message of the failure of a task that may not postpone, settle or hand on as it does, else None.

    `asked`: turn, kind and sender of the task. `open_turns`: what its agent has open before it. A flow may only say
    that it goes on. The turn of the task itself can be handed on, if it is postponed, but not be settled at once.
    """
    turn, kind, sender = asked
    answering = [emit for emit in done.emits if emit.answers]
    if code.flow:
        return ("bad_settle", FLOW_SETTLES_TEXT) if answering else None
    if done.waits is not None and kind != ASK and sender is not None:
        return "bad_settle", nobody_asked_text(turn)
    taken: dict[int, None] = {}
    for emit in answering:
        is_own = done.waits is not None and emit.answers == turn and emit.kind == ASK
        if emit.answers in taken or not (is_own or _holds(open_turns, emit.answers)):
            return "bad_settle", not_open_text(emit.answers, address)
        taken[emit.answers] = None
    if done.waits is not None and turn not in taken and len(open_turns) - len(taken) >= code.limits.asks_max:
        return "overflow", asks_overflow_text(code.limits.asks_max)
    return None


def _holds(open_turns: tuple[int, ...], turn: int) -> bool:
    """Return whether ascending turns hold this one."""
    place = bisect_left(open_turns, turn)
    return place < len(open_turns) and open_turns[place] == turn


FLOW_SETTLES_TEXT: Final = "a flow postpones nothing that it could settle: it answers by returning"


def asks_overflow_text(asks_max: int) -> str:
    """Return the message of `overflow` for one more postponed turn than an agent may have open."""
    return f"over {asks_max} postponed turns open (asks_max)"


def steps_overflow_text(steps_max: int) -> str:
    """Return the message of `overflow` for a message past the bound of a call."""
    return f"a call of over {steps_max} messages (steps_max)"


def bytes_overflow_text(call_bytes: int) -> str:
    """Return the message of `overflow` for a call whose messages hold more than its bound."""
    return f"a call whose messages have over {call_bytes} bytes (call_bytes)"


def _short(value: object) -> str:
    return digest(pack(value))[:4].hex()
