"""Calls of flows and asks that are answered later: addresses, paths, sizes and texts that all sides share. PURE.

A *call* is an instance of a flow, with the address `name/~TURN` of the task that began it (execution model, part 11).
Nobody but the lane makes such addresses: a key of `~` and digits is reserved.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from rota.common.digests import digest, pack
from rota.common.limits import PATH_CHARS_MAX
from rota.common.work import Emit

STEP_BYTES: Final = 256  # what a message of a call counts besides its content while the call lasts

_INSTANCE: Final = re.compile(r"\A[^/]+/~[0-9]+\Z").match
_EMITS_SHOWN: Final = 2
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


def not_open_text(turn: int, address: str) -> str:
    """Return the message of `bad_settle` for a turn that the agent has not postponed, or has settled."""
    return f"turn {turn} is none that {address} has postponed and not settled"


def nobody_asked_text(turn: int) -> str:
    """Return the message of `bad_settle` for postponing a task whose answer nobody waits for."""
    return f"turn {turn} asked for nothing: only an ask, or a task from outside, can be postponed"


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
