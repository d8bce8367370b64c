"""WASI functions about the process: arguments, environment, clocks, chance, waiting, the end. PURE."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NoReturn

from rota.wasi.costs import EVENT_FUEL
from rota.wasi.descriptors import FD_READ, FD_WRITE, OpenFile, StandardStream
from rota.wasi.errno import EBADF, EFAULT, EINVAL, ENOSYS, ENOTSOCK, ENOTSUP, SUCCESS, Refusal
from rota.wasi.guest_access import GuestAccess, charge_copy, load, store, store_u32, store_u64
from rota.wasi.process import CLOCK_STEP_NS, Process, ProcessExit

REALTIME, MONOTONIC, PROCESS_TIME, THREAD_TIME = range(4)
CLOCK_EVENT, READ_EVENT, WRITE_EVENT = range(3)
_ABSOLUTE_TIME: Final = 1
_HANGUP: Final = 1
_PIECE_BYTES: Final = 1 << 20  # of chance that the host makes at once
_SUBSCRIPTIONS_MAX: Final = 4_096
_READY_BYTES: Final = 65_536  # what a poll says at most

_SUBSCRIPTION: Final = struct.Struct("<QB7xI4xQQH6x")  # userdata, tag, clock or descriptor, timeout, precision, flags
_EVENT: Final = struct.Struct("<QHB5xQH6x")  # userdata, errno, type, bytes, flags


def args_get(process: Process, guest: GuestAccess, pointers: int, buffer: int) -> int:
    return _store_texts(guest, process.program.args, pointers, buffer)


def args_sizes_get(process: Process, guest: GuestAccess, count: int, size: int) -> int:
    return _store_sizes(guest, process.program.args, count, size)


def environ_get(process: Process, guest: GuestAccess, pointers: int, buffer: int) -> int:
    return _store_texts(guest, process.program.env, pointers, buffer)


def environ_sizes_get(process: Process, guest: GuestAccess, count: int, size: int) -> int:
    return _store_sizes(guest, process.program.env, count, size)


def _store_sizes(guest: GuestAccess, texts: Sequence[bytes], count: int, size: int) -> int:
    store_u32(guest, count, len(texts))
    store_u32(guest, size, sum([len(text) + 1 for text in texts]))
    return SUCCESS


def _store_texts(guest: GuestAccess, texts: Sequence[bytes], pointers: int, buffer: int) -> int:
    """Store texts, each with a NUL behind it, and where each begins."""
    starts: list[int] = []
    start = buffer
    for text in texts:
        starts.append(start & 0xFFFF_FFFF)
        start += len(text) + 1
    charge_copy(guest, buffer, start - buffer)
    charge_copy(guest, pointers, 4 * len(starts))
    store(guest, pointers, struct.pack(f"<{len(starts)}I", *starts))
    store(guest, buffer, b"".join([text + b"\0" for text in texts]))
    return SUCCESS


def clock_res_get(process: Process, guest: GuestAccess, clock: int, resolution: int) -> int:
    if clock > THREAD_TIME:
        return EINVAL
    store_u64(guest, resolution, CLOCK_STEP_NS)
    return SUCCESS


def clock_time_get(process: Process, guest: GuestAccess, clock: int, precision: int, time: int) -> int:
    if clock > THREAD_TIME:
        return EINVAL
    process.read_clock()
    store_u64(guest, time, _clock(process, clock))
    return SUCCESS


def _clock(process: Process, clock: int) -> int:
    return process.now() if clock in (REALTIME, MONOTONIC) else process.elapsed()


def random_get(process: Process, guest: GuestAccess, buffer: int, size: int) -> int:
    charge_copy(guest, buffer, size)
    for done in range(0, size, _PIECE_BYTES):
        store(guest, buffer + done, process.chance(min(size - done, _PIECE_BYTES)))
    return SUCCESS


def sched_yield(process: Process, guest: GuestAccess) -> int:
    return SUCCESS


def proc_exit(process: Process, guest: GuestAccess, code: int) -> NoReturn:
    raise ProcessExit(code)


def proc_raise(process: Process, guest: GuestAccess, signal: int) -> int:
    return ENOSYS


def poll_oneoff(process: Process, guest: GuestAccess, subscriptions: int, events: int, count: int, stored: int) -> int:
    """Never wait for real: files and streams are ready at once; if only clocks are asked for, time goes on to the first
    of them.
    """
    if not 0 < count <= _SUBSCRIPTIONS_MAX:
        return EINVAL
    memory_bytes = guest.memory_bytes()
    if subscriptions + count * _SUBSCRIPTION.size > memory_bytes or events + count * _EVENT.size > memory_bytes:
        return EFAULT
    guest.charge(count * EVENT_FUEL)
    wanted = list(_SUBSCRIPTION.iter_unpack(load(guest, subscriptions, count * _SUBSCRIPTION.size)))
    ready: list[bytes] = []
    deadlines: list[tuple[int, int]] = []  # nanoseconds from now, userdata
    for userdata, tag, subject, timeout, _, flags in wanted:
        if tag == CLOCK_EVENT:
            if subject > MONOTONIC:
                ready.append(_EVENT.pack(userdata, EINVAL if subject > THREAD_TIME else ENOTSUP, tag, 0, 0))
                continue
            wait = timeout - _clock(process, subject) if flags & _ABSOLUTE_TIME else timeout
            deadlines.append((max(0, wait), userdata))
        elif tag in (READ_EVENT, WRITE_EVENT):
            ready.append(_EVENT.pack(userdata, *_readiness(process, tag, subject)))
        else:
            return EINVAL
    if not ready:
        process.wait(min(deadlines)[0])
        passed = min(deadlines)[0]
    else:
        passed = 0
    ready += [_EVENT.pack(userdata, SUCCESS, CLOCK_EVENT, 0, 0) for wait, userdata in deadlines if wait <= passed]
    store(guest, events, b"".join(ready))
    store_u32(guest, stored, len(ready))
    return SUCCESS


def _readiness(process: Process, tag: int, number: int) -> tuple[int, int, int, int]:
    """Return errno, type, bytes and flags of the event of a descriptor."""
    try:
        descriptor = process.descriptors.get(number)
    except Refusal as refusal:
        return refusal.errno, tag, 0, 0
    if not descriptor.rights & (FD_READ if tag == READ_EVENT else FD_WRITE):
        return EBADF, tag, 0, 0
    if tag == WRITE_EVENT:
        return SUCCESS, tag, _READY_BYTES, 0
    if isinstance(descriptor, StandardStream):
        left = process.readable(descriptor.number, _READY_BYTES)
        return SUCCESS, tag, left, 0 if left else _HANGUP
    assert isinstance(descriptor, OpenFile)
    return SUCCESS, tag, max(0, descriptor.node.size - descriptor.position), 0


def sock_accept(process: Process, guest: GuestAccess, number: int, flags: int, opened: int) -> int:
    return _no_socket(process, number)


def sock_recv(
    process: Process, guest: GuestAccess, number: int, buffers: int, count: int, flags: int, size: int, out: int
) -> int:
    return _no_socket(process, number)


def sock_send(process: Process, guest: GuestAccess, number: int, buffers: int, count: int, flags: int, out: int) -> int:
    return _no_socket(process, number)


def sock_shutdown(process: Process, guest: GuestAccess, number: int, how: int) -> int:
    return _no_socket(process, number)


def _no_socket(process: Process, number: int) -> int:
    process.descriptors.get(number)
    return ENOTSOCK


assert _SUBSCRIPTION.size == 48
assert _EVENT.size == 32
