"""The tensors of the running task, for the import `rota.tensor_read`.

A guest names a tensor by its index in the task, never by digest or path, so it can read only its task's tensors. A
tensor that this host cannot read is a fault of the host: the reason goes into `fault`, and the sandbox ends the task as
faulted, whatever the guest does with the error number. host_calls.py defines the import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from rota.common.errors import TensorError
from rota.common.wasm_binary import FuncType
from rota.common.work import TensorRef
from rota.tensors.format import flat_bytes
from rota.tensors.store import TensorStore

if TYPE_CHECKING:
    from rota.cpu_worker.host_calls import HostedGuest

# The imports about tensors: their types, and the methods of `TensorAccess` behind them.
TENSOR_FUNCTIONS: Final[Mapping[tuple[str, str], tuple[FuncType, str]]] = {
    ("rota", "tensor_read"): (FuncType(("i32", "i64", "i32", "i32"), ("i32",)), "read"),
}

BAD_INDEX: Final = -9  # the task has no tensor with that index (EBADF)
BAD_ADDRESS: Final = -14  # pointer + length is outside the guest's memory (EFAULT)
BAD_OFFSET: Final = -22  # the offset is negative or past the end (EINVAL)
HOST_FAULT: Final = -5  # this host cannot read the tensor (EIO); the sandbox reports the task as faulted


class TensorReader(Protocol):
    """Opens tensors by reference."""

    def open(self, ref: TensorRef) -> memoryview:
        """Return the raw data bytes of a tensor. Raises `TensorError` if it is missing or damaged."""
        ...


class StoreTensorReader:
    """A `TensorReader` over this host's tensor store, without copies."""

    def __init__(self, store: TensorStore) -> None:
        self._store = store

    def open(self, ref: TensorRef) -> memoryview:
        return flat_bytes(self._store.open(ref))


class TensorAccess:
    """What the imports may access now: one task's tensors."""

    def __init__(self, reader: TensorReader | None) -> None:
        self._reader = reader
        self._tensors: Sequence[TensorRef] = ()
        self._opened: dict[int, memoryview] = {}
        self.fault = ""

    def begin(self, tensors: Sequence[TensorRef]) -> None:
        """Serve this task from now on."""
        self._tensors = tensors

    def end(self) -> None:
        """Serve no task, and release the mapped tensors."""
        self._tensors = ()
        self.fault = ""
        if self._opened:
            self._opened = {}

    def read(self, guest: HostedGuest, index: int, offset: int, pointer: int, size: int) -> int:
        """Copy up to `size` bytes from `offset` on; each copied byte costs one unit of fuel, as in `memory.copy`."""
        if index >= len(self._tensors):
            return BAD_INDEX
        data = self._open(index)
        if data is None:
            return HOST_FAULT
        if offset > len(data):
            return BAD_OFFSET
        # The return value is an i32, so one call copies less than 2 GiB.
        part = data[offset : offset + min(size, 0x7FFFFFFF)]
        if pointer + len(part) > guest.memory_bytes():
            return BAD_ADDRESS
        guest.charge(len(part))
        guest.write(pointer, part)
        return len(part)

    def _open(self, index: int) -> memoryview | None:
        data = self._opened.get(index)
        if data is None:
            if self._reader is None:
                self.fault = "this worker has no tensor store"
                return None
            try:
                data = self._opened[index] = self._reader.open(self._tensors[index])
            except TensorError as error:
                self.fault = error.message
                return None
            except MemoryError:
                self.fault = "the host has no memory to map a tensor"
                return None
        return data
