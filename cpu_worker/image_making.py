"""Makes an image: runs a driver's `start` or `load` in an instance, and keeps what is left of it.

This is the work of the throw-away process of image_main.py, which has no key. Clock and chance are fixed, so an image
is the same on every machine of a profile: same fuel, same memory.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgspec
from wasmtime import Engine, Module, WasmtimeError

from rota.common.errors import CodeError
from rota.common.limits import IMAGE_BYTES_MAX
from rota.common.work import Limits
from rota.cpu_worker.guest import GuestExit, GuestFault, GuestStopped
from rota.cpu_worker.guest_memory import WatchedMemories
from rota.cpu_worker.host_calls import HostCalls, TaskFacts
from rota.cpu_worker.image import ImageFacts
from rota.cpu_worker.image_guest import (
    ImageGuest,
    PreparedProgram,
    PreparedSource,
    SourceFacts,
    link_memory,
    link_program,
)
from rota.cpu_worker.module_split import SplitProgram, memory_module
from rota.cpu_worker.profile import IMAGE_FUEL, IMAGE_MEMORY_BYTES, new_engine
from rota.cpu_worker.task_log import TaskLog
from rota.runtimes.driver import NOTE_BYTES_MAX, Driver

PAGE_BYTES: Final = 1 << 16
_GAP_PAGES: Final = 64  # of zeros, for which a further data segment is worth it
_LOG_BYTES: Final = 4 << 10
_LOG_CHARS_SHOWN: Final = 500
_LIMITS: Final = Limits(fuel=IMAGE_FUEL, memory_bytes=IMAGE_MEMORY_BYTES)


class BaseImage(NamedTuple):
    """The base image, to begin with. `native_path` is a file of image.py."""

    native_path: str
    facts: ImageFacts


class Order(NamedTuple):
    """What an image is made of. `base`: None if the base image itself is made, from the runtime's `memory`."""

    driver: str
    native_path: str  # of the program, a file of image.py
    program: SplitProgram
    memory: bytes  # the module of the memory that it begins with
    base: BaseImage | None
    entry: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, bytes], ...]
    copies_images: bool


def encode_order(order: Order) -> bytes:
    return msgspec.msgpack.encode(order)


def decode_order(data: bytes) -> Order:
    return _ORDER.decode(data)


def make_image(order: Order, driver: Driver) -> tuple[bytearray, ImageFacts]:
    """Return the image, its memory as a compiled module.

    Raises `CodeError` if the runtime does not start or the source does not load.
    """
    memories = WatchedMemories() if order.copies_images else None
    engine = new_engine(memories.configure if memories else None)
    what = order.entry or f"the runtime {driver.name}"
    log = TaskLog(_LOG_BYTES)
    try:
        return _make(engine, order, driver, what, log)
    except CodeError as error:
        raise CodeError(error.message + _said(log)) from None
    except (GuestFault, GuestExit, GuestStopped) as error:
        raise CodeError(f"{what} does not load: {_reason(error)}" + _said(log)) from None
    except Exception as error:  # a driver reads what guests return, which may be anything
        text = f"{what} does not load: the driver {driver.name} cannot read what it returned"
        raise CodeError(f"{text} ({type(error).__name__}: {error})" + _said(log)) from None
    finally:
        if memories is not None and memories.refusal:  # then whatever came of it does not follow from the source
            raise CodeError(f"{what} cannot be loaded on this host: {memories.refusal}")


def _make(engine: Engine, order: Order, driver: Driver, what: str, log: TaskLog) -> tuple[bytearray, ImageFacts]:
    hosts = HostCalls(engine, None)
    prepared = _begin_with(engine, order, link_program(engine, order.native_path, order.program, driver, hosts))
    hosts.begin(TaskFacts(0, b"", 0, log, _LIMITS, program=prepared.program, freezes=True))
    guest = ImageGuest(engine, prepared, hosts, memory_bytes=IMAGE_MEMORY_BYTES)
    try:
        tables = guest.tables()
        note = _run(guest, order, driver)
        if guest.tables() != tables:
            raise CodeError(f"{what} changes a table of the runtime, which no image can hold: leave that out")
        return _image_of(engine, guest, note, what)
    finally:
        guest.close()


def _begin_with(engine: Engine, order: Order, runtime: PreparedProgram) -> PreparedSource:
    bundle = SourceFacts(order.args, dict(order.env), dict(order.files))
    if order.base is None:
        facts = ImageFacts(order.program.memory.pages_min, (), b"", 0, 0)
        return link_memory(runtime, Module(engine, order.memory), facts, bundle)
    module = Module.deserialize_file(engine, order.base.native_path)
    return link_memory(runtime, module, order.base.facts, bundle)


def _run(guest: ImageGuest, order: Order, driver: Driver) -> bytes:
    guest.give(IMAGE_FUEL + 1)
    if order.base is None:
        guest.run_initializers()
        note = driver.start(guest.interpreter)
    else:
        note = driver.load(guest.interpreter, order.base.facts.note, order.entry)
    if not guest.fuel_left():
        raise GuestFault("fuel", "out of fuel")
    if len(note) > NOTE_BYTES_MAX:
        raise CodeError(f"the note of an image has {len(note)} bytes, at most {NOTE_BYTES_MAX}")
    return note


def _image_of(engine: Engine, guest: ImageGuest, note: bytes, what: str) -> tuple[bytearray, ImageFacts]:
    program = guest.prepared.runtime.program
    memory = guest.memory()
    segments = _segments(memory)
    data_bytes = sum(len(data) for _, data in segments)
    if data_bytes > IMAGE_BYTES_MAX:
        raise CodeError(f"{what} leaves {data_bytes} bytes in memory, at most {IMAGE_BYTES_MAX}: load less")
    pages = len(memory) // PAGE_BYTES
    module = memory_module(program.memory._replace(pages_min=pages), segments)
    try:
        native = Module(engine, module).serialize()
    except WasmtimeError as error:
        raise CodeError(f"{what} leaves a memory that the engine does not take: {error}") from None
    bits = tuple([guest.global_bits(place) for place in range(len(program.globals))])
    return native, ImageFacts(pages, bits, note, data_bytes, IMAGE_FUEL + 1 - guest.fuel_left())


def _segments(memory: memoryview) -> list[tuple[int, memoryview]]:
    """Return the parts of a memory that are not zero, as (offset, bytes) in pages.

    The engine maps an image copy-on-write if half of it, from the first to the last byte, is data, and small ones
    always; so there is one segment if several would be too sparse.
    """
    zeros = bytes(PAGE_BYTES)
    starts = range(0, len(memory), PAGE_BYTES)
    full = [page for page, start in enumerate(starts) if bytes(memory[start : start + PAGE_BYTES]) != zeros]
    if not full:
        return []
    runs = [[full[0], full[0]]]
    for page in full[1:]:
        if page - runs[-1][1] <= _GAP_PAGES:
            runs[-1][1] = page
        else:
            runs.append([page, page])
    extent = full[-1] + 1 - full[0]
    if sum(last + 1 - first for first, last in runs) * 2 <= extent:
        runs = [[full[0], full[-1]]]
    return [(first * PAGE_BYTES, memory[first * PAGE_BYTES : (last + 1) * PAGE_BYTES]) for first, last in runs]


def _reason(error: Any) -> str:
    if isinstance(error, GuestExit):
        return f"it ended with exit code {error.code}"
    if isinstance(error, GuestStopped):
        return error.reason
    if error.kind == "fuel":
        return f"it used up the {IMAGE_FUEL} units of fuel that loading may take"
    if error.kind == "memory":
        return f"it needs more than the {IMAGE_MEMORY_BYTES} bytes of memory that loading may take"
    return "\n".join([f"{error.kind}: {error.message}", *error.stack])


def _said(log: TaskLog) -> str:
    text = "\n".join(log.lines())[-_LOG_CHARS_SHOWN:]
    return f"\nIt wrote:\n{text}" if text else ""


_ORDER: Final = msgspec.msgpack.Decoder(Order)
