"""The check of `reuse` at the deploy: a second call in one instance must be like the first.

Code deployed with `reuse` must do the same, with the same fuel, in a used instance as in a new one: docs/AGENTS.md. One
empty message proves nothing about others, but finds the usual mistakes: counters, caches, allocators that are set up
once. `rota verify` finds the rest.
"""

from __future__ import annotations

from typing import Final

from rota.common.errors import CodeError
from rota.common.work import AGENT, TELL, Code, Limits, TaskInput
from rota.cpu_worker import abi
from rota.cpu_worker.guest import GuestFault, GuestStopped, PreparedCode
from rota.cpu_worker.host_calls import TaskFacts
from rota.cpu_worker.sandbox import Sandbox
from rota.cpu_worker.task_log import TaskLog

FUEL_MAX: Final = 10_000_000  # about ten milliseconds

_EMPTY: Final = TaskInput(
    turn=1, kind=TELL, sender=None, payload=b"", now_ms=0, reply_to=None, tensors=(), emits_max=0, growth_bytes=0
)


def check_reuse(sandbox: Sandbox, prepared: PreparedCode, code: Code, address: str) -> None:
    """Raise `CodeError` if an empty message shows that the code keeps state between calls."""
    data = b""
    if code.kind == AGENT:
        data = abi.encode_input(_EMPTY, address=address, state=None, entropy=bytes(32))
    limits = code.limits._replace(fuel=min(code.limits.fuel, FUEL_MAX))
    sandbox.begin(prepared, code._replace(limits=limits))
    try:
        sandbox.forget()
        first = sandbox.call(data, _facts(limits)), sandbox.fuel_used
        if not sandbox.has_kept():
            return  # its memory has grown, so no other task gets this instance
        second = _answer_of(sandbox, data, limits), sandbox.fuel_used
    except (GuestFault, GuestStopped):
        return
    finally:
        sandbox.forget()
        sandbox.end()
    if first != second:
        what = f"{first[1]} units of fuel and then {second[1]}" if first[0] == second[0] else "two different answers"
        raise CodeError(
            f"the module keeps something between calls: an empty message takes {what} in one instance; deploy it "
            "without reuse or fix it (docs/AGENTS.md)"
        )


def _facts(limits: Limits) -> TaskFacts:
    return TaskFacts(0, b"", 0, TaskLog(0), limits)


def _answer_of(sandbox: Sandbox, data: bytes, limits: Limits) -> bytes | None:
    """Return the answer of a call; None if it fails."""
    try:
        return sandbox.call(data, _facts(limits))
    except GuestFault:
        return None
