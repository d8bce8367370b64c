"""The functions of `rota` that guests may import: tensors, log, and the end of a task by its own decision.

Each call costs CALL_FUEL and one unit for each byte that it reads or copies, so the work of the host is bounded by
the task's fuel. A wrong pointer gets an error number, or ends the task as `bad_output` where there is no result.
host_calls.py defines the functions and says what they may raise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from rota.common.limits import MESSAGE_CHARS_MAX, TENSOR_RANK_MAX
from rota.common.rota_imports import OWN_MODULE
from rota.cpu_worker.guest import GuestFail, GuestFault
from rota.cpu_worker.tensor_access import BAD_ADDRESS, BAD_ARGUMENT, BAD_INDEX, HOST_FAULT, TaskTensors
from rota.wasi.costs import CALL_FUEL

if TYPE_CHECKING:
    from rota.cpu_worker.host_calls import HostedGuest
    from rota.cpu_worker.task_log import TaskLog

_READ_BYTES_MAX: Final = 0x7FFF_FFFF  # of one call: the answer is an i32
_DTYPE_BYTES_MAX: Final = 32
_LENGTH_BYTES: Final = 8
_TEXT_BYTES_MAX: Final = 4 * MESSAGE_CHARS_MAX


class RotaCalls:
    """The functions, and what of the running task they need."""

    log: TaskLog

    def __init__(self, tensors: TaskTensors) -> None:
        self.tensors = tensors
        self.functions: Mapping[str, Callable[..., int | None]] = {
            "tensor_read": self._tensor_read,
            "tensor_new": self._tensor_new,
            "log": self._log,
            "fail": self._fail,
        }

    def _tensor_read(self, guest: HostedGuest, index: int, offset: int, pointer: int, size: int) -> int:
        """Copy up to `size` bytes of a tensor from `offset` on; return how many."""
        guest.charge(CALL_FUEL)
        if index >= len(self.tensors):
            return BAD_INDEX
        data = self.tensors.open(index)
        if data is None:
            return HOST_FAULT
        if offset > len(data):
            return BAD_ARGUMENT
        part = data[offset : offset + min(size, _READ_BYTES_MAX)]
        if pointer + len(part) > guest.memory_bytes():
            return BAD_ADDRESS
        guest.charge(len(part))
        guest.write(pointer, part)
        return len(part)

    def _tensor_new(
        self, guest: HostedGuest, dtype_at: int, dtype_size: int, shape_at: int, rank: int, data_at: int, size: int
    ) -> int:
        """Make a tensor of a copy of guest memory; return its index."""
        guest.charge(CALL_FUEL)
        if dtype_size > _DTYPE_BYTES_MAX or rank > TENSOR_RANK_MAX:
            return BAD_ARGUMENT
        name, lengths = guest.read(dtype_at, dtype_size), guest.read(shape_at, rank * _LENGTH_BYTES)
        if name is None or lengths is None or data_at + size > guest.memory_bytes():
            return BAD_ADDRESS
        dtype = name.decode(errors="replace")
        shape = tuple(memoryview(lengths).cast("Q"))
        refusal = self.tensors.refuse(dtype, shape, size)
        if refusal:
            return refusal
        guest.charge(size)
        data = guest.read(data_at, size)
        assert data is not None, "its place was checked"
        return self.tensors.make(dtype, shape, data)

    def _log(self, guest: HostedGuest, pointer: int, size: int) -> None:
        """Add an entry to the log."""
        log = self.log
        data = _bytes_at(guest, "log", pointer, size, 0 if log.is_full else log.bytes_max + 1)
        if data:
            log.text(data.decode(errors="replace"))

    def _fail(self, guest: HostedGuest, code_at: int, code_size: int, text_at: int, text_size: int) -> None:
        """End the task with an error of this code and message."""
        code = _bytes_at(guest, "fail: code", code_at, code_size, _TEXT_BYTES_MAX)
        text = _bytes_at(guest, "fail: message", text_at, text_size, _TEXT_BYTES_MAX)
        if not code:
            raise GuestFault("bad_output", f"{OWN_MODULE}.fail: code is empty")
        raise GuestFail(code.decode(errors="replace"), text.decode(errors="replace"))


def _bytes_at(guest: HostedGuest, what: str, pointer: int, size: int, bytes_max: int) -> bytes:
    """Return the first `bytes_max` bytes of a text in guest memory. The guest pays for all of it."""
    if pointer + size > guest.memory_bytes():
        raise GuestFault("bad_output", f"{OWN_MODULE}.{what}: pointer + length is outside the memory")
    guest.charge(CALL_FUEL + size)
    return guest.read(pointer, min(size, bytes_max)) or b""
