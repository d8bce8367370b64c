"""What a guest may tell the host during a call: a line for its log, or that its task has failed.

`rota.log` writes its line at once, so it is kept when the guest traps behind it. `rota.fail` ends the task as `error`
where the guest stands: languages that cannot unwind need it to leave a handler, and a panic or a failed allocation
takes this way to say so. host_calls.py defines the imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from rota.common.limits import MESSAGE_CHARS_MAX
from rota.common.wasm_binary import FuncType
from rota.cpu_worker.guest import GuestFault
from rota.cpu_worker.task_log import TaskLog

if TYPE_CHECKING:
    from rota.cpu_worker.host_calls import HostedGuest

CALL_FUEL: Final = 100  # each call costs this and one unit per byte, since the host works for it
_MESSAGE_BYTES_MAX: Final = 4 * MESSAGE_CHARS_MAX  # of code or message: more than is kept of them

LOG: Final = "log"
FAIL: Final = "fail"
TASK_FUNCTIONS: Final[Mapping[str, FuncType]] = {
    LOG: FuncType(("i32", "i32"), ()),
    FAIL: FuncType(("i32", "i32", "i32", "i32"), ()),
}


def task_function(name: str, log: Callable[[], TaskLog]) -> Callable[..., None]:
    """Return the host function of this name. `log` gives the log of the task that runs."""

    def write_log(guest: HostedGuest, pointer: int, size: int) -> None:
        guest.charge(CALL_FUEL + size)
        lines = log()
        if not lines.is_full:
            lines.text(_text(guest, f"rota.{LOG}", pointer, min(size, lines.bytes_max + 1)))
        elif pointer + size > guest.memory_bytes():
            raise _outside(f"rota.{LOG}")

    def fail(guest: HostedGuest, code: int, code_size: int, message: int, message_size: int) -> None:
        guest.charge(CALL_FUEL + code_size + message_size)
        what = _text(guest, f"rota.{FAIL}: code", code, min(code_size, _MESSAGE_BYTES_MAX))
        text = _text(guest, f"rota.{FAIL}: message", message, min(message_size, _MESSAGE_BYTES_MAX))
        if not what:
            raise GuestFault("bad_output", f"rota.{FAIL}: code is empty")
        raise GuestFault("error", f"{what}: {text}"[:MESSAGE_CHARS_MAX])

    functions: Mapping[str, Callable[..., None]] = {LOG: write_log, FAIL: fail}
    return functions[name]


def _text(guest: HostedGuest, what: str, pointer: int, size: int) -> str:
    """Return guest memory as text, with U+FFFD for bytes that are not UTF-8."""
    data = guest.read(pointer, size)
    if data is None:
        raise _outside(what)
    return data.decode(errors="replace")


def _outside(what: str) -> GuestFault:
    return GuestFault("bad_output", f"{what}: pointer + length is outside the memory")
