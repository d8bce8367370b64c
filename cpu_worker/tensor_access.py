"""The only import of guests, `rota.tensor_read`.

A guest names a tensor by its index in the task, never by digest or path, so it can read only its task's tensors. A
tensor that this host cannot read is a fault of the host: the reason goes into `fault`, and the sandbox ends the task as
faulted, whatever the guest does with the error number. Nothing here may raise into the guest's call, because wasmtime's
package passes host exceptions through one slot per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from wasmtime import FuncType, Linker, ValType

from rota.common.errors import TensorError
from rota.common.work import TensorRef
from rota.cpu_worker.guest import Guest
from rota.tensors.format import flat_bytes
from rota.tensors.store import TensorStore

MODULE: Final = "rota"
TENSOR_READ: Final = "tensor_read"

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
    """What `tensor_read` may access now: one guest's memory and one task's tensors."""

    def __init__(self, reader: TensorReader | None) -> None:
        self._reader = reader
        self._tensors: Sequence[TensorRef] = ()
        self._opened: dict[int, memoryview] = {}
        self._guest: Guest | None = None
        self.fault = ""

    def define(self, linker: Linker) -> None:
        """Define the import in a linker."""
        i32, i64 = ValType.i32(), ValType.i64()
        linker.define_func(MODULE, TENSOR_READ, FuncType([i32, i64, i32, i32], [i32]), self._tensor_read)

    def begin(self, guest: Guest, tensors: Sequence[TensorRef]) -> None:
        """Serve this task from now on."""
        self._guest = guest
        self._tensors = tensors

    def end(self) -> None:
        """Serve no task, and release the mapped tensors."""
        self._guest = None
        self._tensors = ()
        self.fault = ""
        if self._opened:
            self._opened = {}

    def _tensor_read(self, index: int, offset: int, pointer: int, size: int) -> int:
        """Copy up to `size` bytes from `offset` on; each copied byte costs one unit of fuel, as in `memory.copy`."""
        pointer, size = pointer & 0xFFFFFFFF, size & 0xFFFFFFFF
        guest = self._guest
        if guest is None or not 0 <= index < len(self._tensors):
            return BAD_INDEX
        data = self._open(index)
        if data is None:
            return HOST_FAULT
        if not 0 <= offset <= len(data):
            return BAD_OFFSET
        # The return value is an i32, so one call copies less than 2 GiB.
        part = data[offset : offset + min(size, 0x7FFFFFFF)]
        try:
            if not guest.write(pointer, part):
                return BAD_ADDRESS
        except MemoryError:
            self.fault = "the host has no memory to copy a tensor"
            return HOST_FAULT
        guest.charge(len(part))
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
