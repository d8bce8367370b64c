"""JavaScript: QuickJS-NG as a reactor, from the npm package quickjs-wasi. PURE.

Its exports make values, evaluate and call; quickjs.py wraps them. What an agent sees is written in JavaScript, in the
files sdk/javascript/rota/: boot.js begins and ends tasks, modules.js finds modules. The host passes on what these
cannot do themselves: the functions of HOST, as properties of an object that host.js takes. The engine asks for modules
and tells of rejected promises through imports of its own; functions of boot.js, in kept slots, answer them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final, NamedTuple

import msgpack

from rota.common.calls import is_instance
from rota.common.errors import CodeError
from rota.common.limits import EMITS_MAX, LOG_LINES_MAX, OUTPUT_BYTES_MAX, PAYLOAD_BYTES_MAX
from rota.common.wasm_binary import FuncType
from rota.runtimes import plain_values, quickjs
from rota.runtimes.driver import HostFunction, HostServices, Interpreter

COLLECT_BYTES: Final = 16 << 20  # cycles are looked for once this much is in use; most tasks never come there
COLLECT_CALL_BYTES: Final = 4 << 20  # in a call of a flow, which leaves more behind; the engine raises it by itself
BOOT_FILE: Final = "rota/boot.js"
PROTOCOL: Final = 3  # as in boot.js
CALL_FUEL: Final = 10_000  # of a call of the host, which calls the guest several times
SOURCE_FUEL: Final = 8  # per byte of a module that is read and copied
PART_FUEL: Final = 1_000  # of a part of the output, beside its bytes
PARTS_MAX: Final = 2 * (EMITS_MAX + 3)  # each payload, the state and the result, with what is between them
PLAIN_FUEL: Final = 16  # per byte of JSON or MessagePack that the host makes into the other

_HOOKS: Final = ("resolve", "loadModule", "noteRejection")  # exports of boot.js that answer the engine
_RESOLVE, _LOAD, _REJECTION = range(quickjs.SLOTS, quickjs.SLOTS + len(_HOOKS))


class JavaScriptNote(NamedTuple):
    """The note of both images: handles of the functions of boot.js, as u32."""

    load: int
    loaded: int
    begin: int
    finish: int


_ADDRESS: Final = 10  # of the fields of a message
_NOTE: Final = Struct(f"<{len(JavaScriptNote._fields)}I")


class JavaScriptDriver:
    """See `Driver`."""

    name: Final = "javascript"
    version: Final = 3
    exports: Final = quickjs.EXPORTS
    args: Final[tuple[str, ...]] = ()

    @property
    def imports(self) -> Mapping[tuple[str, str], HostFunction]:
        return _IMPORTS

    def start(self, guest: Interpreter) -> bytes:
        quickjs.begin(guest)
        guest.call("qjs_set_gc_threshold", COLLECT_BYTES)
        guest.call("qjs_set_module_loader", 1)
        guest.call("qjs_set_promise_rejection_handler", 1)
        _give_host(guest)
        source = guest.files.get(BOOT_FILE)
        if source is None:
            raise CodeError(f"the bundle has no {BOOT_FILE}: let `source_bundle` of rota.runtimes.bundles make it")
        boot = quickjs.evaluate(guest, BOOT_FILE, source, quickjs.EVALUATE_MODULE)
        if guest.call("qjs_is_exception", boot):
            raise CodeError(f"{BOOT_FILE}: {quickjs.exception_text(guest)}")
        problem = _run_jobs(guest)
        exported = guest.call("qjs_promise_result", boot)
        if problem or guest.call("qjs_promise_state", boot) != quickjs.FULFILLED:
            raise CodeError(f"{BOOT_FILE}: {problem or quickjs.text_of(guest, exported)}")
        note = JavaScriptNote(*[quickjs.named(guest, exported, name) for name in JavaScriptNote._fields])
        protocol = quickjs.named(guest, exported, "PROTOCOL")
        if quickjs.integer_of(guest, protocol) != PROTOCOL:
            raise CodeError(f"{BOOT_FILE} is of another version of Rota: deploy the source again")
        for slot, name in enumerate(_HOOKS, quickjs.SLOTS):
            quickjs.keep(guest, slot, quickjs.named(guest, exported, name))
        guest.call("qjs_run_gc")
        return _NOTE.pack(*note)

    def load(self, guest: Interpreter, note: bytes, entry: str) -> bytes:
        functions = JavaScriptNote(*_NOTE.unpack(note))
        deployed = json.dumps([entry, guest.args, dict(guest.env)])
        _call(guest, entry, functions.load, quickjs.string(guest, deployed))
        while True:
            said = _call(guest, entry, functions.loaded)
            if not guest.call("qjs_is_undefined", said):
                break
        problem = quickjs.text_of(guest, said)
        if problem:
            raise CodeError(problem)
        guest.call("qjs_run_gc")
        return note

    def step(self, guest: Interpreter, note: bytes, message: bytes) -> bytes:
        functions = JavaScriptNote(*_NOTE.unpack(note))
        fields = msgpack.unpackb(message)
        if is_instance(fields[_ADDRESS]):
            quickjs.goes_on(guest, COLLECT_CALL_BYTES)
        given = _arguments(guest, fields)
        answer = quickjs.call(guest, functions.begin, *given)
        quickjs.free(guest, *given)
        while True:
            problem = _thrown(guest, answer) or _run_jobs(guest)
            if problem:
                return _failed(problem)
            quickjs.free(guest, answer)
            answer = quickjs.call(guest, functions.finish)
            if not guest.call("qjs_is_undefined", answer):
                break
        problem = _thrown(guest, answer)
        output = _failed(problem) if problem else _output(guest, answer)
        quickjs.free(guest, answer)
        return output


DRIVER: Final = JavaScriptDriver()


def _arguments(guest: Interpreter, fields: list[Any]) -> tuple[int, ...]:
    """Return the handles of what `begin` of boot.js takes: JSON, payload, state or null, entropy."""
    _, state, kind, sender, payload, turn, now_ms, entropy, reply_to, tensors, address = fields
    shown = [[digest.hex(), dtype, shape] for digest, dtype, shape in tensors]
    header = json.dumps([kind, sender, turn, now_ms, reply_to, shown, address, is_instance(address)]).encode()
    return (
        quickjs.string_of(guest, header),
        quickjs.array(guest, payload),
        guest.call("qjs_get_null") if state is None else quickjs.array(guest, state),
        quickjs.array(guest, entropy),
    )


def _output(guest: Interpreter, parts: int) -> bytes:
    """Return the output for what `finish` of boot.js gives: state and result, or from index 2 on parts of an output.

    An agent that changes built-in objects can make anything of it, so it is bytes that the host does not look into.
    """
    found: list[bytes] = []
    left = OUTPUT_BYTES_MAX
    for index in range(2, PARTS_MAX):
        part = _part(guest, parts, index, left)
        if part is None:
            break
        left -= len(part)
        found.append(part)
    if found:
        return b"".join(found)
    state = _part(guest, parts, 0, left)
    result = _part(guest, parts, 1, left - len(state or b""))
    return _pack([1, 0, state, result, [], []])


def _part(guest: Interpreter, parts: int, index: int, bytes_max: int) -> bytes | None:
    """Return the bytes at an index, None where undefined is."""
    part = guest.call("qjs_get_prop_uint32", parts, index)
    if guest.call("qjs_is_undefined", part):
        return None
    pointer, size = quickjs.place_of(guest, part)
    if size > bytes_max:
        guest.fail("bad_output", f"javascript: more than {OUTPUT_BYTES_MAX} bytes returned")
    guest.charge(PART_FUEL)
    data = guest.read(pointer, size)
    quickjs.free(guest, part)
    return data


def _pack(fields: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(fields, unicode_errors="replace")
    return packed


def _call(guest: Interpreter, entry: str, function: int, *handles: int) -> int:
    """Call a function of boot.js and run the jobs that it leaves. Raises `CodeError` if it throws."""
    answer = quickjs.call(guest, function, *handles)
    problem = _thrown(guest, answer) or _run_jobs(guest)
    if problem:
        raise CodeError(f"{entry}: {problem}")
    return answer


def _run_jobs(guest: Interpreter) -> str:
    """Run the jobs of promises until there are none; return the text of what a job threw itself, or ""."""
    while guest.call("qjs_is_job_pending"):
        if guest.call("qjs_execute_pending_job") >> 31:
            return quickjs.exception_text(guest)
    return ""


def _thrown(guest: Interpreter, answer: int) -> str:
    """Return the text of what a call threw, or "". Only what no JavaScript can catch comes here: no memory is left."""
    return quickjs.exception_text(guest) or "unknown" if guest.call("qjs_is_exception", answer) else ""


def _failed(text: str) -> bytes:
    """Return the output for an exception such as `InternalError: out of memory`."""
    name, colon, message = text.partition(": ")
    return _pack([1, 1, name, message, []] if colon else [1, 1, "InternalError", text, []])


def _give_host(guest: Interpreter) -> None:
    """Put the functions of HOST into an object of the global object; host.js takes it away."""
    host = guest.call("qjs_new_object")
    for name, (_, parameters) in HOST.items():
        quickjs.set_named(guest, host, name, quickjs.host_function(guest, name, parameters))
    quickjs.set_named(guest, guest.call("qjs_get_global"), "__rota_host", host)


# --- Functions of the host, called by JavaScript: handles in; out a new handle, or 0 to throw the exception that waits.


def _log(guest: Interpreter, services: HostServices, text: int) -> int:
    pointer, size = quickjs.place_of_text(guest, text)
    services.charge(size)
    data = guest.read(pointer, min(size, PAYLOAD_BYTES_MAX))  # no log is longer
    quickjs.free_text(guest, pointer)
    for line in data.decode(errors="replace").split("\n", LOG_LINES_MAX)[:LOG_LINES_MAX]:
        services.log(line)
    return guest.call("qjs_get_undefined")


def _encode(guest: Interpreter, services: HostServices, text: int) -> int:
    pointer, size = quickjs.place_of_text(guest, text)
    encoded = guest.call("qjs_new_array_buffer", pointer, size)
    quickjs.free_text(guest, pointer)
    return encoded


def _decode(guest: Interpreter, services: HostServices, data: int) -> int:
    return guest.call("qjs_new_string", *quickjs.place_of(guest, data))


def _pack_plain(guest: Interpreter, services: HostServices, text: int) -> int:
    """Return the MessagePack of a JSON text, undefined if the host leaves it to JavaScript."""
    pointer, size = quickjs.place_of_text(guest, text)
    if size > plain_values.BYTES_MAX:
        quickjs.free_text(guest, pointer)
        return guest.call("qjs_get_undefined")
    services.charge(PLAIN_FUEL * size)
    packed = plain_values.pack(guest.read(pointer, size))
    quickjs.free_text(guest, pointer)
    return guest.call("qjs_get_undefined") if packed is None else quickjs.buffer(guest, packed)


def _unpack_plain(guest: Interpreter, services: HostServices, data: int) -> int:
    """Return the JSON of a MessagePack value, undefined if the host leaves it to JavaScript."""
    pointer, size = quickjs.place_of(guest, data)
    if size > plain_values.BYTES_MAX:
        return guest.call("qjs_get_undefined")
    services.charge(PLAIN_FUEL * size)
    text = plain_values.unpack(guest.read(pointer, size))
    return guest.call("qjs_get_undefined") if text is None else quickjs.string_of(guest, text)


def _equal(guest: Interpreter, services: HostServices, one: int, other: int) -> int:
    (first, size), (second, other_size) = quickjs.place_of(guest, one), quickjs.place_of(guest, other)
    equal = size == other_size and not guest.call("memcmp", first, second, size)
    return quickjs.truth(guest, value=equal)


def _read(guest: Interpreter, services: HostServices, path: int) -> int:
    data = guest.files.get(quickjs.text_of(guest, path))
    if data is None:
        return guest.call("qjs_get_undefined")
    services.charge(len(data))
    return quickjs.buffer(guest, data)


def _evaluate(flags: int) -> Callable[[Interpreter, HostServices, int, int], int]:
    def evaluate(guest: Interpreter, services: HostServices, path: int, source: int) -> int:
        code = quickjs.utf8_of(guest, source)
        services.charge(SOURCE_FUEL * len(code))
        answer = quickjs.evaluate(guest, quickjs.text_of(guest, path), code, flags)
        return 0 if guest.call("qjs_is_exception", answer) else answer

    return evaluate


def _tensor_read(guest: Interpreter, services: HostServices, index: int, offset: int, size: int) -> int:
    room = max(0, quickjs.integer_of(guest, size))
    pointer = quickjs.allocate(guest, room)
    found = services.tensor_read(quickjs.integer_of(guest, index), quickjs.integer_of(guest, offset), pointer, room)
    if found < 0:
        return quickjs.integer(guest, found)
    buffer = guest.call("qjs_new_array_buffer", pointer, found)
    guest.call("wasm_free", pointer)
    return buffer


def _tensor_new(guest: Interpreter, services: HostServices, dtype: int, shape: int, data: int) -> int:
    name = quickjs.utf8_of(guest, dtype)
    name_at = quickjs.put(guest, name)
    shape_at, shape_size = quickjs.place_of(guest, shape)
    data_at, data_size = quickjs.place_of(guest, data)
    index = services.tensor_new(name_at, len(name), shape_at, shape_size // 8, data_at, data_size)
    guest.call("wasm_free", name_at)
    return quickjs.integer(guest, index)


HOST: Final[Mapping[str, tuple[Callable[..., int], int]]] = {  # with the number of parameters
    "log": (_log, 1),
    "encode": (_encode, 1),
    "decode": (_decode, 1),
    "packPlain": (_pack_plain, 1),
    "unpackPlain": (_unpack_plain, 1),
    "equal": (_equal, 2),
    "read": (_read, 1),
    "evaluate": (_evaluate(quickjs.EVALUATE_SCRIPT), 2),
    "evaluateAsync": (_evaluate(quickjs.EVALUATE_ASYNC), 2),
    "evaluateModule": (_evaluate(quickjs.EVALUATE_MODULE), 2),
    "tensorRead": (_tensor_read, 3),
    "tensorNew": (_tensor_new, 3),
}


# --- Imports of the engine.


def _host_call(
    guest: Interpreter, services: HostServices, name: int, size: int, this: int, given: int, arguments: int
) -> int:
    services.charge(CALL_FUEL)
    function, parameters = HOST[guest.read(name, size).decode()]
    handles = [guest.word(arguments + 4 * index) for index in range(min(given, parameters))]
    while len(handles) < parameters:
        handles.append(quickjs.undefined(guest))
    return function(guest, services, *handles)


def _module_normalize(guest: Interpreter, services: HostServices, base: int, name: int) -> int:
    """Return the address of the path that an import means; 0 to throw."""
    asked = quickjs.text_at(guest, name)
    hook = quickjs.kept(guest, _RESOLVE)
    if not hook:  # an import of boot.js
        return quickjs.put(guest, asked.replace("./", "rota/").encode())
    from_path = quickjs.text_at(guest, base)
    given = quickjs.string(guest, from_path), quickjs.string(guest, asked)
    answer = quickjs.call(guest, hook, *given)
    quickjs.free(guest, *given)
    if guest.call("qjs_is_exception", answer):
        return 0
    path = quickjs.put(guest, quickjs.utf8_of(guest, answer))
    quickjs.free(guest, answer)
    return path


def _module_load(guest: Interpreter, services: HostServices, name: int, size_out: int) -> int:
    """Return the address of a module's source, and its size at `size_out`; 0 to throw."""
    path = quickjs.text_at(guest, name)
    hook = quickjs.kept(guest, _LOAD)
    if hook:
        asked = quickjs.string(guest, path)
        answer = quickjs.call(guest, hook, asked)
        quickjs.free(guest, asked)
        if guest.call("qjs_is_exception", answer):
            return 0
        source = quickjs.utf8_of(guest, answer)
        quickjs.free(guest, answer)
    else:
        source = guest.files.get(path, b"")
        if not source:
            return 0  # the engine says that it could not load the module
    services.charge(SOURCE_FUEL * len(source))
    pointer = quickjs.put(guest, source)
    guest.write(size_out, len(source).to_bytes(4, "little"))
    return pointer


def _promise_rejection(guest: Interpreter, services: HostServices, promise: int, reason: int, handled: int) -> None:
    """Tell boot.js of a promise that was rejected while nobody waits for it, or that somebody waits for it now."""
    hook = quickjs.kept(guest, _REJECTION)
    is_handled = quickjs.truth(guest, value=bool(handled))
    answer = quickjs.call(guest, hook, promise, reason, is_handled) if hook else is_handled
    quickjs.free(guest, promise, reason, answer)


def _nothing(guest: Interpreter, services: HostServices, *arguments: int) -> int:
    return 0


def _function(call: Callable[..., int | None], parameters: int, results: int = 1) -> HostFunction:
    return HostFunction(FuncType(("i32",) * parameters, ("i32",) * results), call)


_IMPORTS: Final[Mapping[tuple[str, str], HostFunction]] = {
    ("env", "host_call"): _function(_host_call, 5),
    ("env", "host_interrupt"): _function(_nothing, 0),  # never asked: fuel stops a guest
    ("env", "host_get_timezone_offset"): _function(_nothing, 2),  # UTC
    ("env", "host_module_normalize"): _function(_module_normalize, 2),
    ("env", "host_module_load"): _function(_module_load, 2),
    ("env", "host_promise_rejection"): _function(_promise_rejection, 3, 0),
}
