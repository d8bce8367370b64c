"""Python: CPython for WASI, which has `_start` and its memory as exports and nothing else.

The interpreter is started with a script (sdk/python/rota/agent/boot.py) that loads Rota's part, writes the addresses of
a few objects into the freeze file and reads the clock, where the instance is stopped: that is the base image. From then
on Python functions are called as the interpreter itself calls them, through the slot `tp_call` of their type, with a
tuple of arguments that is empty. Input is one bytes object, which is written into free memory with its head and put
into a tuple that the functions read; output is a bytes object too. So a task allocates nothing before its handler runs.
A call of a flow takes one message after another in one instance, each in the place of the one before.

The layouts below are those of CPython 3.12 on a 32-bit machine. They are facts of a build that its digest names.
"""

from __future__ import annotations

import marshal
from collections.abc import Mapping
from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from rota.common.errors import CodeError
from rota.common.limits import OUTPUT_BYTES_MAX
from rota.common.msgpack_check import is_whole
from rota.runtimes.driver import Frozen, HostFunction, Interpreter
from rota.runtimes.plain_values import DEPTH_MAX, is_deeper

BOOT_FILE: Final = "rota/agent/boot.py"
PAGE_BYTES: Final = 1 << 16
STACK_PAGES: Final = 128  # the build's own stack, of 512 KiB, ends before Python's limits of recursion do
ROOM_PAGES: Final = 1  # for the input object, if it is small
ROOM_HEAD: Final = Struct("<II8x")  # of the room: where larger ones are, and how many pages they have there

# PyObject: ob_refcnt, ob_type. PyVarObject: ob_size too. PyBytesObject: ob_shash, then the bytes and a zero.
BYTES_HEAD: Final = Struct("<IIII")
BYTES_SIZE_AT: Final = 8
IMMORTAL: Final = 0x3FFFFFFF  # a count of references that is never changed
HASH_UNKNOWN: Final = 0xFFFFFFFF
TUPLE_ITEMS_AT: Final = 12
TYPE_CALL_AT: Final = 64  # of PyTypeObject: tp_call, a table index
PROTOCOL: Final = 1  # as in boot.py
VALUE_FUEL: Final = 4  # per byte of those
VALUE_BYTES_MAX: Final = 64 << 10  # of a state or payload that the host reads, at some 100 bytes for each byte
ADDRESSES: Final = 6  # that the start script notes
MARSHAL_VERSION: Final = 2  # the last one whose bytes depend on the values alone

_NO_ANSWER: Final = msgpack.packb(
    [
        1,
        1,
        "SystemError",
        "Python could not say what went wrong: no memory was left, or the agent changed rota.agent",
        [],
    ]
)


class PythonNote(NamedTuple):
    """The note of both images: addresses of objects, and of the room for input. All are u32."""

    load: int  # a function, as `step`
    step: int
    arguments: int  # the tuple that they read
    empty: int  # the empty tuple
    call: int  # table index of a function type's `tp_call`
    bytes_type: int
    room: int  # of `ROOM_PAGES` pages


_NOTE: Final = Struct(f"<{len(PythonNote._fields)}I")


class PythonDriver:
    """See `Driver`."""

    name: Final = "python"
    version: Final = 3
    exports: Final = ("_start",)
    imports: Final[Mapping[tuple[str, str], HostFunction]] = {}
    args: Final = ("python", "-B", "-E", "-s", "-S", f"/{BOOT_FILE}")

    def start(self, guest: Interpreter) -> bytes:
        if BOOT_FILE not in guest.files:
            raise CodeError(f"the bundle has no {BOOT_FILE}: make it with `rota deploy` or rota.runtimes.bundles")
        try:
            guest.call("_start")
        except Frozen as frozen:
            load, step, arguments, empty, function_type, bytes_type = _addresses(frozen.note)
        else:
            raise CodeError(f"{BOOT_FILE} ended, and did not stop where it should")
        first = guest.add_pages(STACK_PAGES + ROOM_PAGES)
        room = (first + STACK_PAGES) * PAGE_BYTES
        guest.stack_pointer = room  # a stack grows downwards; the frames of the start script stay where they are
        call = guest.word(function_type + TYPE_CALL_AT)
        return _NOTE.pack(load, step, arguments, empty, call, bytes_type, room)

    def load(self, guest: Interpreter, note: bytes, entry: str) -> bytes:
        addresses = PythonNote(*_NOTE.unpack(note))
        order = (entry, guest.args, dict(guest.env))
        said = _call(guest, addresses, addresses.load, marshal.dumps(order, MARSHAL_VERSION))
        if said is None:
            raise CodeError(f"{entry} cannot be loaded: Python had no memory left to say why")
        if said:
            raise CodeError(said.decode(errors="replace"))
        _clear(guest, addresses.room)
        return note

    def step(self, guest: Interpreter, note: bytes, message: bytes) -> bytes:
        addresses = PythonNote(*_NOTE.unpack(note))
        fields = msgpack.unpackb(message, use_list=False)
        values = _value_of(guest, fields[1]), _value_of(guest, fields[4])  # of state and payload
        answer = _call(guest, addresses, addresses.step, marshal.dumps((fields[1:], values), MARSHAL_VERSION))
        return _NO_ANSWER if answer is None else answer


def _clear(guest: Interpreter, room: int) -> None:
    """Forget the used part of the stack and of the room above it, which mean nothing between calls: an image that ends
    in zeros is smaller by the whole stack.
    """
    zeros = bytes(PAGE_BYTES)
    for page in range(ROOM_PAGES):
        guest.write(room + page * PAGE_BYTES, zeros)
    for page in range(1, STACK_PAGES + 1):
        place = room - page * PAGE_BYTES
        if guest.read(place, PAGE_BYTES) == zeros:
            break
        guest.write(place, zeros)


def _value_of(guest: Interpreter, data: bytes | None) -> tuple[Any] | None:
    """Return what bytes are as MessagePack. None: nothing that Python has too, or so much that the guest shall pay for
    reading it.

    Whether the host reads it depends on the bytes alone. Keys are texts and bins only: those that a guest chooses among
    numbers and extensions could all collide.
    """
    if not data or len(data) > VALUE_BYTES_MAX:
        return None
    guest.charge(VALUE_FUEL * len(data))
    if not is_whole(data):
        return None
    try:
        value = msgpack.unpackb(data, ext_hook=_refuse)
        if is_deeper(value, DEPTH_MAX):
            return None
        marshal.dumps(value, MARSHAL_VERSION)
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    return (value,)


def _refuse(code: int, data: bytes) -> Any:
    raise ValueError("an extension")


def _addresses(note: bytes) -> list[int]:
    """Return what the start script noted. Raises `CodeError`: anybody can send a bundle with a script of his own."""
    try:
        found = msgpack.unpackb(note)
    except (ValueError, msgpack.UnpackException):
        found = None
    numbers = found if type(found) is list else []
    if len(numbers) != 1 + ADDRESSES or any(type(one) is not int or one >> 32 for one in numbers):
        raise CodeError(f"{BOOT_FILE} is not one of Rota: it noted no {ADDRESSES} addresses")
    if numbers[0] != PROTOCOL:
        raise CodeError(f"{BOOT_FILE} is of another version of Rota: deploy the source again")
    return numbers[1:]


def _call(guest: Interpreter, addresses: PythonNote, function: int, data: bytes) -> bytes | None:
    """Call a function without arguments on `data`; return what it returns, None if it raised."""
    size = BYTES_HEAD.size + len(data) + 1
    place = addresses.room + ROOM_HEAD.size
    if size > ROOM_PAGES * PAGE_BYTES - ROOM_HEAD.size:
        place = _large_room(guest, addresses.room, -(-size // PAGE_BYTES))
    head = BYTES_HEAD.pack(IMMORTAL, addresses.bytes_type, len(data), HASH_UNKNOWN)
    guest.write(place, b"%b%b\0" % (head, data))
    guest.write(addresses.arguments + TUPLE_ITEMS_AT, place.to_bytes(4, "little"))
    answer = guest.call_table(addresses.call, function, addresses.empty, 0)
    if not answer:
        return None
    size = guest.word(answer + BYTES_SIZE_AT)
    if size > OUTPUT_BYTES_MAX:
        guest.fail("bad_output", f"python: {size} bytes returned, at most {OUTPUT_BYTES_MAX}")
    return guest.read(answer + BYTES_HEAD.size, size)


def _large_room(guest: Interpreter, room: int, pages: int) -> int:
    """Return the address of so many pages: those of an earlier call in this instance, or new ones."""
    place, pages_there = ROOM_HEAD.unpack(guest.read(room, ROOM_HEAD.size))
    if pages > pages_there:
        pages = max(pages, 2 * pages_there)
        place = guest.add_pages(pages) * PAGE_BYTES
        guest.write(room, ROOM_HEAD.pack(place, pages))
    return int(place)


DRIVER: Final = PythonDriver()
