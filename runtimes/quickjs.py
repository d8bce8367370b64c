"""Values of QuickJS as the host sees them: handles of the npm package quickjs-wasi, texts, bytes and calls. PURE.

A *handle* is the address of a value in the guest's memory. An instance that runs one task is dropped, so there nothing
is freed; that of a call of a flow goes on, and there `free` lets go of what holds data. A host function's arguments are
the engine's, but those of `host_promise_rejection` are ours. A call of a guest's function answers with a handle in all
cases: `is_exception` tells whether it threw, and then the exception waits in the interpreter until it is taken, or
until a host function answers with 0, which throws it.

The module's stack is the first MiB of its memory, and grows downwards. QuickJS itself uses `STACK_BYTES` of it, so the
lower part is free: there data is passed, and a few handles are kept for host functions, which know nothing else.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from rota.common.errors import CodeError
from rota.runtimes.driver import Interpreter

STACK_TOP: Final = 1 << 20
STACK_BYTES: Final = 240 << 10
"""How deep recursion goes. It must end before the stack of the host does (profile.py, 6 MiB), so that it is a
RangeError: what was found to use most of the host's stack, JSON.stringify and the parser, fills it at about 330 KiB.
"""

_ARGUMENTS_AT: Final = 1024  # handles for a call
_OUT_AT: Final = 1088  # what a function writes beside its result
_SLOTS_AT: Final = 1152  # handles that are kept
_DATA_AT: Final = 4096
_DATA_BYTES: Final = 512 << 10  # longer data is passed in memory of the heap
assert _DATA_AT + _DATA_BYTES < STACK_TOP - 2 * STACK_BYTES

_SIZE_MAX: Final = 1 << 31
_EXCEPTION_BYTES_MAX: Final = 16 << 10  # of its text, which the task cuts after fewer characters

_WORD: Final = Struct("<I")

EXPORTS: Final = (
    "memcmp", "qjs_call", "qjs_eval", "qjs_execute_pending_job", "qjs_free_cstring", "qjs_free_value",
    "qjs_get_array_buffer", "qjs_get_big_int64", "qjs_get_exception", "qjs_get_false", "qjs_get_global", "qjs_get_null",
    "qjs_get_prop_string", "qjs_get_prop_uint32", "qjs_get_string_len", "qjs_get_true", "qjs_get_typed_array_buffer",
    "qjs_get_undefined", "qjs_init", "qjs_is_exception", "qjs_is_job_pending", "qjs_is_undefined",
    "qjs_new_array_buffer", "qjs_new_big_int64", "qjs_new_host_function", "qjs_new_object", "qjs_new_string",
    "qjs_new_uint8_array", "qjs_promise_result", "qjs_promise_state", "qjs_run_gc", "qjs_set_gc_threshold",
    "qjs_set_max_stack_size", "qjs_set_module_loader", "qjs_set_promise_rejection_handler", "qjs_set_prop_string",
    "strlen", "wasm_free", "wasm_malloc",
)  # fmt: skip

EVALUATE_SCRIPT: Final = 0
EVALUATE_MODULE: Final = 1 << 0
EVALUATE_ASYNC: Final = 1 << 7  # a script that may await; gives a promise of {value}
FULFILLED: Final = 1

_UNDEFINED, _GOES_ON = range(2)  # slots; those of the driver follow
SLOTS: Final = 2


def begin(guest: Interpreter) -> None:
    """Initialise the interpreter. Raises `CodeError` if the module is another build than this file is for."""
    if guest.stack_pointer != STACK_TOP or guest.call("qjs_init"):
        raise CodeError("this build of QuickJS does not begin as the one that Rota knows")
    guest.call("qjs_set_max_stack_size", STACK_BYTES)
    keep(guest, _UNDEFINED, guest.call("qjs_get_undefined"))


def keep(guest: Interpreter, slot: int, handle: int) -> None:
    """Keep a handle for `kept`, in the image too."""
    guest.write(_SLOTS_AT + _WORD.size * slot, _WORD.pack(handle))


def kept(guest: Interpreter, slot: int) -> int:
    """Return the handle in a slot; 0 if there is none."""
    return guest.word(_SLOTS_AT + _WORD.size * slot)


def undefined(guest: Interpreter) -> int:
    """Return the one handle of undefined. A host function may not return it: the guest would free it."""
    return kept(guest, _UNDEFINED)


def allocate(guest: Interpreter, size: int) -> int:
    """Return the address of `size` bytes of the heap. Raises the guest's fault `memory` if there is no room."""
    pointer = guest.call("wasm_malloc", max(size, 1)) if size < _SIZE_MAX else 0
    if not pointer:
        guest.fail("memory", f"no room for the {size} bytes that JavaScript is given")
    return pointer


def put(guest: Interpreter, data: bytes) -> int:
    """Return the address of a copy in the heap, with a zero behind it; it is the guest's to free."""
    pointer = allocate(guest, len(data) + 1)
    guest.write(pointer, data + b"\0")
    return pointer


def _pass(guest: Interpreter, data: bytes) -> int:
    """Return the address of data, with a zero behind it, for a function that copies it before anything else."""
    if len(data) >= _DATA_BYTES:
        return put(guest, data)
    guest.write(_DATA_AT, data + b"\0")
    return _DATA_AT


def text_at(guest: Interpreter, pointer: int) -> str:
    """Return the text that ends with a zero."""
    return guest.read(pointer, guest.call("strlen", pointer)).decode(errors="replace")


def named(guest: Interpreter, holder: int, name: str) -> int:
    """Return a handle of a property; undefined if there is none."""
    return guest.call("qjs_get_prop_string", holder, _pass(guest, name.encode()))


def set_named(guest: Interpreter, holder: int, name: str, handle: int) -> None:
    guest.call("qjs_set_prop_string", holder, _pass(guest, name.encode()), handle)


def call(guest: Interpreter, function: int, *handles: int) -> int:
    """Call a function with `this` undefined and at most eight arguments; return a handle of the answer."""
    guest.write(_ARGUMENTS_AT, b"".join([_WORD.pack(handle) for handle in handles]))
    return guest.call("qjs_call", function, undefined(guest), len(handles), _ARGUMENTS_AT)


def string(guest: Interpreter, text: str) -> int:
    """Return a handle of a new string."""
    return string_of(guest, text.encode(errors="replace"))


def string_of(guest: Interpreter, data: bytes) -> int:
    return _new(guest, "qjs_new_string", data)


def array(guest: Interpreter, data: bytes) -> int:
    """Return a handle of a new Uint8Array."""
    return _new(guest, "qjs_new_uint8_array", data)


def buffer(guest: Interpreter, data: bytes) -> int:
    """Return a handle of a new ArrayBuffer."""
    return _new(guest, "qjs_new_array_buffer", data)


def _new(guest: Interpreter, export: str, data: bytes) -> int:
    pointer = _pass(guest, data)
    handle = guest.call(export, pointer, len(data))
    if pointer != _DATA_AT and kept(guest, _GOES_ON):
        guest.call("wasm_free", pointer)
    return handle


def host_function(guest: Interpreter, name: str, parameters: int) -> int:
    """Return a handle of a function that the import `host_call` answers, by its name."""
    encoded = name.encode()
    return guest.call("qjs_new_host_function", _pass(guest, encoded), len(encoded), parameters)


def place_of_text(guest: Interpreter, handle: int) -> tuple[int, int]:
    """Return address and size of the UTF-8 of a value as text, with three bytes for a lone surrogate: for `free_text`.

    No bytes if it cannot be a text.
    """
    pointer = guest.call("qjs_get_string_len", handle, _OUT_AT)
    if not pointer:
        guest.call("qjs_get_exception")
        return 0, 0
    return pointer, guest.word(_OUT_AT)


def utf8_of(guest: Interpreter, handle: int) -> bytes:
    pointer, size = place_of_text(guest, handle)
    data = guest.read(pointer, size)
    free_text(guest, pointer)
    return data


def text_of(guest: Interpreter, handle: int) -> str:
    return utf8_of(guest, handle).decode(errors="replace")


def place_of(guest: Interpreter, handle: int) -> tuple[int, int]:
    """Return address and size of the bytes of a typed array; no bytes for anything else."""
    whole = guest.call("qjs_get_typed_array_buffer", handle, _OUT_AT, _OUT_AT + 4, _OUT_AT + 8)
    if guest.call("qjs_is_exception", whole):
        guest.call("qjs_get_exception")
        return 0, 0
    offset, size = guest.word(_OUT_AT), guest.word(_OUT_AT + 4)
    pointer = guest.call("qjs_get_array_buffer", whole, _OUT_AT)
    free(guest, whole)  # the array itself keeps it
    return pointer + offset, size


def bytes_of(guest: Interpreter, handle: int) -> bytes:
    return guest.read(*place_of(guest, handle))


def goes_on(guest: Interpreter, collect_bytes: int) -> None:
    """Have `free` work from now on, and look for cycles at `collect_bytes`: this instance runs more than one task."""
    if not kept(guest, _GOES_ON):
        keep(guest, _GOES_ON, 1)
        guest.call("qjs_set_gc_threshold", collect_bytes)


def free(guest: Interpreter, *handles: int) -> None:
    """Let go of values, if the instance goes on."""
    if kept(guest, _GOES_ON):
        for handle in handles:
            guest.call("qjs_free_value", handle)


def free_text(guest: Interpreter, pointer: int) -> None:
    """Let go of what `place_of_text` has found, if the instance goes on."""
    if pointer and kept(guest, _GOES_ON):
        guest.call("qjs_free_cstring", pointer)


def integer_of(guest: Interpreter, handle: int) -> int:
    """Return the value of a BigInt, as signed 64 bits; 0 for what is none."""
    if guest.call("qjs_get_big_int64", handle, _OUT_AT, _OUT_AT + 4):
        guest.call("qjs_get_exception")
        return 0
    return int.from_bytes(guest.read(_OUT_AT, 8), "little", signed=True)


def integer(guest: Interpreter, value: int) -> int:
    """Return a handle of a new BigInt."""
    bits = value & 0xFFFF_FFFF_FFFF_FFFF
    return guest.call("qjs_new_big_int64", bits & 0xFFFF_FFFF, bits >> 32)


def truth(guest: Interpreter, *, value: bool) -> int:
    return guest.call("qjs_get_true" if value else "qjs_get_false")


def exception_text(guest: Interpreter) -> str:
    """Take the exception that waits, and return the beginning of its text."""
    pointer, size = place_of_text(guest, guest.call("qjs_get_exception"))
    return guest.read(pointer, min(size, _EXCEPTION_BYTES_MAX)).decode(errors="replace")


def evaluate(guest: Interpreter, path: str, source: bytes, flags: int) -> int:
    """Evaluate a source under the name `path`; return a handle of its value."""
    name = put(guest, path.encode())  # not where data is passed: the evaluation may use that before it needs the name
    code = put(guest, source)
    handle = guest.call("qjs_eval", code, len(source), name, flags)
    guest.call("wasm_free", code)
    guest.call("wasm_free", name)
    return handle
