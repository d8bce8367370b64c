"""Values of QuickJS as the host sees them: handles of the npm package quickjs-wasi, texts, bytes and calls. PURE.

A *handle* is the address of a value in the guest's memory; whoever gets one from the guest frees it, unless the
instance is dropped anyway. A call of a guest's function answers with a handle in all cases: `is_exception` tells
whether it threw, and then the exception waits in the interpreter until it is taken, or until a host function answers
with 0, which throws it on.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from rota.common.wasm_binary import PAGES_MAX
from rota.runtimes.driver import Interpreter

_WORD: Final = Struct("<I")
_OUT_BYTES: Final = 16  # room for the results that a function writes

EXPORTS: Final = (
    "memcmp", "qjs_call", "qjs_eval", "qjs_execute_pending_job", "qjs_free_cstring", "qjs_free_value",
    "qjs_get_array_buffer", "qjs_get_big_int64", "qjs_get_exception", "qjs_get_false", "qjs_get_global",
    "qjs_get_null", "qjs_get_prop_string", "qjs_get_prop_uint32", "qjs_get_string_len", "qjs_get_true",
    "qjs_get_typed_array_buffer", "qjs_get_undefined", "qjs_init", "qjs_is_exception", "qjs_is_job_pending",
    "qjs_is_undefined", "qjs_new_array_buffer", "qjs_new_big_int64", "qjs_new_host_function", "qjs_new_object",
    "qjs_new_string", "qjs_new_uint8_array", "qjs_promise_result", "qjs_promise_state", "qjs_run_gc",
    "qjs_set_gc_threshold", "qjs_set_max_stack_size", "qjs_set_module_loader", "qjs_set_promise_rejection_handler",
    "qjs_set_prop_string", "strlen", "wasm_free", "wasm_malloc",
)  # fmt: skip

EVALUATE_SCRIPT: Final = 0
EVALUATE_MODULE: Final = 1 << 0
EVALUATE_ASYNC: Final = 1 << 7  # a script that may await; gives a promise of {value}

FULFILLED: Final = 1


def allocate(guest: Interpreter, size: int) -> int:
    """Return the address of `size` bytes. Raises the guest's fault `memory` if there is no room."""
    pointer = guest.call("wasm_malloc", max(size, 1))
    if not pointer:
        guest.add_pages(PAGES_MAX)  # more than any memory has: the fault is that of growing
    return pointer


def put(guest: Interpreter, data: bytes) -> int:
    """Return the address of a copy of `data`, with a zero behind it."""
    pointer = allocate(guest, len(data) + 1)
    guest.write(pointer, data + b"\0")
    return pointer


def text_at(guest: Interpreter, pointer: int) -> str:
    """Return the text that ends with a zero."""
    return guest.read(pointer, guest.call("strlen", pointer)).decode(errors="replace")


def named(guest: Interpreter, holder: int, name: str) -> int:
    """Return a handle of a property; undefined if there is none."""
    pointer = put(guest, name.encode())
    handle = guest.call("qjs_get_prop_string", holder, pointer)
    guest.call("wasm_free", pointer)
    return handle


def set_named(guest: Interpreter, holder: int, name: str, handle: int) -> None:
    pointer = put(guest, name.encode())
    guest.call("qjs_set_prop_string", holder, pointer, handle)
    guest.call("wasm_free", pointer)


def call(guest: Interpreter, function: int, *handles: int) -> int:
    """Call a function with `this` undefined; return a handle of the answer."""
    arguments = put(guest, b"".join([_WORD.pack(handle) for handle in handles]))
    answer = guest.call("qjs_call", function, guest.call("qjs_get_undefined"), len(handles), arguments)
    guest.call("wasm_free", arguments)
    return answer


def string(guest: Interpreter, text: str) -> int:
    """Return a handle of a new string."""
    return string_of(guest, text.encode(errors="replace"))


def string_of(guest: Interpreter, data: bytes) -> int:
    pointer = put(guest, data)
    handle = guest.call("qjs_new_string", pointer, len(data))
    guest.call("wasm_free", pointer)
    return handle


def array(guest: Interpreter, data: bytes) -> int:
    """Return a handle of a new Uint8Array."""
    pointer = put(guest, data)
    handle = guest.call("qjs_new_uint8_array", pointer, len(data))
    guest.call("wasm_free", pointer)
    return handle


def buffer(guest: Interpreter, data: bytes) -> int:
    """Return a handle of a new ArrayBuffer."""
    pointer = put(guest, data)
    handle = guest.call("qjs_new_array_buffer", pointer, len(data))
    guest.call("wasm_free", pointer)
    return handle


def utf8_of(guest: Interpreter, handle: int) -> bytes:
    """Return the UTF-8 of a value as text, with three bytes for a lone surrogate; no bytes if it cannot be a text."""
    out = allocate(guest, _OUT_BYTES)
    pointer = guest.call("qjs_get_string_len", handle, out)
    size = guest.word(out)
    guest.call("wasm_free", out)
    if not pointer:
        guest.call("qjs_get_exception")
        return b""
    data = guest.read(pointer, size)
    guest.call("qjs_free_cstring", pointer)
    return data


def text_of(guest: Interpreter, handle: int) -> str:
    return utf8_of(guest, handle).decode(errors="replace")


def place_of(guest: Interpreter, handle: int) -> tuple[int, int]:
    """Return address and size of the bytes of a typed array; no bytes for anything else."""
    out = allocate(guest, _OUT_BYTES)
    buffer = guest.call("qjs_get_typed_array_buffer", handle, out, out + 4, out + 8)
    if guest.call("qjs_is_exception", buffer):
        guest.call("qjs_get_exception")
        return 0, 0
    offset, size = guest.word(out), guest.word(out + 4)
    pointer = guest.call("qjs_get_array_buffer", buffer, out)
    guest.call("qjs_free_value", buffer)
    guest.call("wasm_free", out)
    return pointer + offset, size


def integer_of(guest: Interpreter, handle: int) -> int:
    """Return the value of a BigInt, as signed 64 bits; 0 for what is none."""
    out = allocate(guest, _OUT_BYTES)
    if guest.call("qjs_get_big_int64", handle, out, out + 4):
        guest.call("qjs_get_exception")
        return 0
    data = guest.read(out, 8)
    guest.call("wasm_free", out)
    return int.from_bytes(data, "little", signed=True)


def integer(guest: Interpreter, value: int) -> int:
    """Return a handle of a new BigInt."""
    bits = value & 0xFFFF_FFFF_FFFF_FFFF
    return guest.call("qjs_new_big_int64", bits & 0xFFFF_FFFF, bits >> 32)


def truth(guest: Interpreter, *, value: bool) -> int:
    return guest.call("qjs_get_true" if value else "qjs_get_false")


def exception_text(guest: Interpreter) -> str:
    """Take the exception that waits, and return its text."""
    return text_of(guest, guest.call("qjs_get_exception"))


def evaluate(guest: Interpreter, path: str, source: bytes, flags: int) -> int:
    """Evaluate a source under the name `path`; return a handle of its value."""
    code, name = put(guest, source), put(guest, path.encode())
    handle = guest.call("qjs_eval", code, len(source), name, flags)
    guest.call("wasm_free", code)
    guest.call("wasm_free", name)
    return handle
