"""The memory and fuel of the guest that called, as WASI functions use them. PURE.

Pointers and sizes come from the guest: any value is possible. What is outside its memory is EFAULT.
"""

from __future__ import annotations

from typing import Final, Protocol

from rota.wasi.costs import BYTE_FUEL, VECTOR_FUEL
from rota.wasi.errno import EFAULT, EILSEQ, EINVAL, ENAMETOOLONG, Refusal

PATH_BYTES_MAX: Final = 4_096
VECTORS_MAX: Final = 1_024  # buffers of one call, as on Linux
TRANSFER_BYTES_MAX: Final = 16 << 20  # of one call: buffers may overlap, so guest memory does not bound them


class GuestAccess(Protocol):
    """Pointers, sizes and fuel are unsigned."""

    def read(self, pointer: int, size: int) -> bytes | None:
        """Return a copy of guest memory; None if that is outside."""
        ...

    def write(self, pointer: int, data: bytes | memoryview) -> bool:
        """Copy into guest memory; return False, and write nothing, if that is outside."""
        ...

    def memory_bytes(self) -> int: ...

    def charge(self, fuel: int) -> None:
        """Take fuel. Raises if none would be left, which ends the guest."""
        ...


def load(guest: GuestAccess, pointer: int, size: int) -> bytes:
    data = guest.read(pointer, size)
    if data is None:
        raise Refusal(EFAULT)
    return data


def store(guest: GuestAccess, pointer: int, data: bytes | memoryview) -> None:
    if not guest.write(pointer, data):
        raise Refusal(EFAULT)


def store_u32(guest: GuestAccess, pointer: int, value: int) -> None:
    store(guest, pointer, value.to_bytes(4, "little"))


def store_u64(guest: GuestAccess, pointer: int, value: int) -> None:
    store(guest, pointer, value.to_bytes(8, "little"))


def charge_copy(guest: GuestAccess, pointer: int, size: int) -> None:
    """Charge for a copy of `size` bytes, unless it would be outside the memory (EFAULT)."""
    if pointer + size > guest.memory_bytes():
        raise Refusal(EFAULT)
    guest.charge(size * BYTE_FUEL)


def vectors(guest: GuestAccess, pointer: int, count: int) -> list[tuple[int, int]]:
    """Return addresses and sizes of `count` buffers, all of them inside the memory.

    Together they have at most TRANSFER_BYTES_MAX bytes; the rest is cut off, as every read and write may be short.
    """
    if count > VECTORS_MAX:
        raise Refusal(EINVAL)
    if pointer + 8 * count > guest.memory_bytes():
        raise Refusal(EFAULT)
    guest.charge(count * VECTOR_FUEL)
    data = load(guest, pointer, 8 * count)
    words = memoryview(data).cast("I").tolist()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    memory_bytes = guest.memory_bytes()
    if any(start + size > memory_bytes for start, size in pairs):
        raise Refusal(EFAULT)
    left = TRANSFER_BYTES_MAX
    for index, (start, size) in enumerate(pairs):
        if size > left:
            return [*pairs[:index], (start, left)]
        left -= size
    return pairs


def load_path(guest: GuestAccess, pointer: int, size: int) -> str:
    """Return a path or a link's target: UTF-8 without NUL."""
    if pointer + size > guest.memory_bytes():
        raise Refusal(EFAULT)
    if size > PATH_BYTES_MAX:
        raise Refusal(ENAMETOOLONG)
    guest.charge(size * BYTE_FUEL)
    try:
        path = load(guest, pointer, size).decode("utf-8")
    except UnicodeDecodeError:
        raise Refusal(EILSEQ) from None
    if "\0" in path:
        raise Refusal(EINVAL)
    return path
