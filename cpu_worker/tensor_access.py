"""The tensors of the running task: those that it was given, and those that it makes.

In a call of a flow those of its earlier messages come first, so that an index means the same tensor in all its steps.

A guest names a tensor by its index in the task, never by digest or path, so it can read only its task's tensors. A
tensor that this host cannot read or keep is a fault of the host: the reason goes into `fault`, and the sandbox ends the
task as faulted, whatever the guest does with the error number. Tensors that a task makes are held in memory; those that
its outcome names are written to the store before the outcome leaves, so a failed task or a crash leaves nothing there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from rota.common.errors import TensorError
from rota.common.limits import TENSORS_PER_TASK_MAX
from rota.common.work import TensorRef

if TYPE_CHECKING:
    from rota.tensors.store import TensorStore

# Functions of rota.tensors are imported where they are called: they load numpy, which takes longer than most sources
# take to load in the process of image_main.py, and guests there have no tensors.

BAD_INDEX: Final = -9  # the task has no tensor with that index (EBADF)
BAD_ADDRESS: Final = -14  # pointer + length is outside the guest's memory (EFAULT)
BAD_ARGUMENT: Final = -22  # the offset is past the end; dtype, shape and data do not fit (EINVAL)
NO_ROOM: Final = -28  # more tensors than a task may have, or more bytes than `tensor_bytes` (ENOSPC)
HOST_FAULT: Final = -5  # this host cannot read the tensor (EIO); the sandbox reports the task as faulted


class TensorAccess(Protocol):
    """Reads tensors by reference, and keeps new ones."""

    def open(self, ref: TensorRef) -> memoryview:
        """Return the raw data bytes of a tensor. Raises `TensorError` if it is missing or damaged."""
        ...

    def keep(self, ref: TensorRef, data: bytes) -> None:
        """Store a tensor; when this returns it is on the disk. Raises `TensorError` if there is no room."""
        ...


class StoreTensors:
    """A `TensorAccess` over this host's tensor store; reading makes no copies."""

    def __init__(self, store: TensorStore) -> None:
        self._store = store

    def open(self, ref: TensorRef) -> memoryview:
        from rota.tensors.format import flat_bytes

        return flat_bytes(self._store.open(ref))

    def keep(self, ref: TensorRef, data: bytes) -> None:
        self._store.keep(ref, data)


class TaskTensors:
    """The tensors of one task at a time: those that it was `given`, and others of up to `bytes_max` bytes together."""

    def __init__(self, access: TensorAccess | None) -> None:
        self._access = access
        self.given: Sequence[TensorRef] = ()
        self.earlier = 0  # how many of those given came with earlier messages of the call
        self.bytes_max = 0
        self._made: list[tuple[TensorRef, bytes]] = []
        self._bytes_made = 0
        self._opened: dict[int, memoryview] = {}
        self.fault = ""

    def end(self) -> None:
        """Serve no task, and release what is mapped and held."""
        self.given = ()
        self.earlier = 0
        self.fault = ""
        self._bytes_made = 0
        if self._opened:
            self._opened = {}
        if self._made:
            self._made = []

    @property
    def is_used(self) -> bool:
        """Whether `end` has anything to release."""
        return bool(self.given or self._made or self.fault)

    @property
    def has_made(self) -> bool:
        """Whether the task has made a tensor."""
        return bool(self._made)

    def made(self) -> tuple[tuple[TensorRef, bytes], ...]:
        """Return the tensors that the task has made, with their data, in the order of their indices."""
        return tuple(self._made)

    def __len__(self) -> int:
        return len(self.given) + len(self._made)

    def open(self, index: int) -> memoryview | None:
        """Return the data of a tensor of the task; None if this host cannot, for the reason in `fault`."""
        data = self._opened.get(index)
        if data is not None:
            return data
        if index >= len(self.given):
            return memoryview(self._made[index - len(self.given)][1])
        if self._access is None:
            self.fault = "this worker has no tensor store"
            return None
        try:
            data = self._opened[index] = self._access.open(self.given[index])
        except TensorError as error:
            self.fault = error.message
        except MemoryError:
            self.fault = "the host has no memory to map a tensor"
        return data

    def refuse(self, dtype: str, shape: tuple[int, ...], size: int) -> int:
        """Return why a tensor with `size` bytes of data cannot be made, BAD_ARGUMENT or NO_ROOM; 0 if it can."""
        from rota.tensors.format import check_tensor

        try:
            wanted = check_tensor(dtype, shape)
        except TensorError:
            return BAD_ARGUMENT
        if size != wanted:
            return BAD_ARGUMENT
        is_full = len(self) - self.earlier >= TENSORS_PER_TASK_MAX
        return NO_ROOM if is_full or self._bytes_made + size > self.bytes_max else 0

    def make(self, dtype: str, shape: tuple[int, ...], data: bytes) -> int:
        """Make a tensor and return its index, or why not, as `refuse` does. `data`: row-major, little-endian."""
        refusal = self.refuse(dtype, shape, len(data))
        if refusal or (dtype == "bool" and data.strip(b"\0\1")):
            return refusal or BAD_ARGUMENT
        self._bytes_made += len(data)
        from rota.tensors.format import tensor_digest

        self._made.append((TensorRef(tensor_digest(dtype, shape, data), dtype, shape), data))
        return len(self) - 1
