"""A small driver for the example agents, on the public wasmtime API.

It is a third implementation of the agent ABI (docs/AGENTS.md) and shares no code with rota.h or rota.cpu_worker, so a
mistake in one of them shows. It needs no broker and no worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import pytest
import wasmtime

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"
ENTROPY = bytes(range(100, 132))
NOW_MS = 1_700_000_000_000


class Emit(NamedTuple):
    target: str
    payload: bytes
    priority: int
    kind: str
    tensors: list[int]
    delay_ms: int = 0


class Step(NamedTuple):
    """The outcome of one message. If `error` is set, the other fields except the log are empty."""

    state: bytes | None
    result: bytes | None
    emits: list[Emit]
    log: list[str]
    tensors: list[int]
    error: str = ""
    message: str = ""


class GuestFailed(Exception):
    """The guest has called `rota.fail`."""


class Modules:
    """The compiled agents. Closed at the end, since wasmtime's finalizers must not run at interpreter shutdown."""

    def __init__(self) -> None:
        self.engine = wasmtime.Engine()
        self.by_name = {
            path.stem: wasmtime.Module.from_file(self.engine, str(path)) for path in sorted(AGENTS.glob("*.wasm"))
        }

    def close(self) -> None:
        for module in self.by_name.values():
            module.close()
        self.engine.close()


class Guest:
    """One instance of a module; `tensors` are what `rota.tensor_read` reads. `call` may raise `failed`."""

    failed = GuestFailed

    def __init__(self, modules: Modules, name: str, tensors: tuple[bytes, ...] = ()) -> None:
        self._tensors = tensors
        self._store = wasmtime.Store(modules.engine)
        linker = wasmtime.Linker(modules.engine)
        i32, i64 = wasmtime.ValType.i32(), wasmtime.ValType.i64()
        linker.define_func("rota", "tensor_read", wasmtime.FuncType([i32, i64, i32, i32], [i32]), self._tensor_read)
        linker.define_func("rota", "log", wasmtime.FuncType([i32, i32], []), self._log)
        linker.define_func("rota", "fail", wasmtime.FuncType([i32, i32, i32, i32], []), self._fail)
        self.log: list[str] = []
        self.failure: tuple[str, str] | None = None
        self._exports = linker.instantiate(self._store, modules.by_name[name]).exports(self._store)

    def _tensor_read(self, index: int, offset: int, pointer: int, size: int) -> int:
        part = self._tensors[index][offset : offset + size]
        self._exports["memory"].write(self._store, part, pointer)
        return len(part)

    def _text(self, pointer: int, size: int) -> str:
        start = pointer & 0xFFFFFFFF
        return bytes(self._exports["memory"].read(self._store, start, start + size)).decode()

    def _log(self, pointer: int, size: int) -> None:
        self.log.append(self._text(pointer, size))

    def _fail(self, code: int, code_size: int, message: int, size: int) -> None:
        self.failure = self._text(code, code_size), self._text(message, size)
        raise GuestFailed

    def call(self, export: str, data: bytes) -> bytes:
        """Pass `data` to `export` and return its answer."""
        memory = self._exports["memory"]
        pointer = self._exports["rota_alloc"](self._store, len(data)) & 0xFFFFFFFF
        memory.write(self._store, data, pointer)
        packed = self._exports[export](self._store, pointer, len(data)) & 0xFFFFFFFFFFFFFFFF
        start, size = packed >> 32, packed & 0xFFFFFFFF
        return bytes(memory.read(self._store, start, start + size))

    def memory_bytes(self) -> int:
        size: int = self._exports["memory"].data_len(self._store)
        return size


class Agent:
    """An agent with its state, and `output`, the fields of its last answer. Every message gets a fresh instance, as by
    default in a worker.
    """

    def __init__(self, modules: Modules, name: str) -> None:
        self._modules = modules
        self.name = name
        self.state: bytes | None = None
        self.turn = 0
        self.output: list[Any] = []

    def send(
        self,
        payload: bytes,
        *,
        kind: str = "tell",
        sender: str | None = None,
        reply_to: tuple[int, int, int] | None = None,
        tensors: tuple[bytes, ...] = (),
    ) -> Step:
        """Run one message and keep the new state."""
        self.turn += 1
        references = [[bytes(32), "uint8", [len(data)]] for data in tensors]
        head = [1, self.state, kind, sender, payload, self.turn, NOW_MS, ENTROPY]
        message = [*head, reply_to, references, f"{self.name}/alice"]
        guest = Guest(self._modules, self.name, tensors)
        try:
            packed = guest.call("rota_step", msgpack.packb(message))
        except GuestFailed:
            assert guest.failure is not None
            return Step(None, None, [], guest.log, [], *guest.failure)
        self.output = msgpack.unpackb(packed)
        version, failed, state, result, emits, log, *more = self.output
        assert (version, failed, log) == (1, 0, [])
        if state is not None:
            self.state = state
        return Step(state, result, [Emit(*emit[:6]) for emit in emits], guest.log, more[0] if more else [])


@pytest.fixture(scope="session")
def modules() -> Iterator[Modules]:
    found = Modules()
    yield found
    found.close()


@pytest.fixture(scope="session")
def guest(modules: Modules) -> Callable[[str], Guest]:
    """Makes an instance of a module."""
    return lambda name: Guest(modules, name)


@pytest.fixture(scope="session")
def agent(modules: Modules) -> Callable[[str], Agent]:
    """Makes an agent without a state."""
    return lambda name: Agent(modules, name)
