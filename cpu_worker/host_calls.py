"""Everything that guests may import: `rota.*`, WASI preview 1, and what a runtime's driver adds, in one linker.

The functions are defined once per process and serve the task that runs now: `begin` names it, the guest attaches itself
before it is instantiated (start functions may call, too), `end` forgets both. A host function gets the guest and
unsigned integers; it charges fuel for its work before it does it, answers a guest's garbage with an error number, and
stops the guest by raising. Nothing crosses wasmtime: what is raised is kept here, the guest traps, and whoever called
the guest raises it again (`raise_kept`). Functions are defined through the C API, about 1 µs per call where the library
takes 10, and serve both call paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from wasmtime import Engine, Linker, ValType, WasmtimeError
from wasmtime import FuncType as EngineFuncType

from rota.common.digests import entropy
from rota.common.rota_imports import OWN_IMPORTS, OWN_MODULE
from rota.common.wasi_imports import WASI_IMPORTS, WASI_MODULE
from rota.common.wasm_binary import FuncType
from rota.common.work import Fold, Limits, TaskInput, TensorRef
from rota.cpu_worker import raw_api as api
from rota.cpu_worker.guest import GuestExit, GuestFail, GuestFault, GuestStopped, OutOfFuel
from rota.cpu_worker.rota_calls import RotaCalls
from rota.cpu_worker.task_log import TaskLog
from rota.cpu_worker.tensor_access import TaskTensors, TensorAccess
from rota.cpu_worker.trap_stack import stack_of
from rota.runtimes.driver import Frozen
from rota.wasi.functions import WASI_FUNCTIONS, call_function
from rota.wasi.process import FreezeReached, Process, ProcessExit
from rota.wasi.program import NO_PROGRAM, Program

MASKS: Final = {"i32": 0xFFFF_FFFF, "i64": 0xFFFF_FFFF_FFFF_FFFF}
NO_ENTROPY: Final = bytes(32)
_TRAP_TEXT: Final = b"stopped by the host"


@dataclass(slots=True)
class TaskFacts:
    """What one task at a time sees through host functions. Everything follows from the task's inputs."""

    now_ms: int  # where its clocks start
    lane_seed: bytes
    turn: int  # 0: no task, such as the making of an image or of an instance that is reused
    log: TaskLog
    limits: Limits
    tensors: Sequence[TensorRef] = ()
    tensors_earlier: int = 0  # how many of these came with earlier messages of the call
    program: Program = NO_PROGRAM  # arguments, environment, read-only files
    stdin: bytes = b""
    stdout_bytes_max: int | None = None  # keep up to so many bytes in `HostCalls.stdout`; None: stdout goes to the log
    freezes: bool = False  # an image is being made: the guest may stop itself (`runtimes.driver.Frozen`)

    @property
    def entropy(self) -> bytes:
        """The seed of its chance, 32 bytes. Not a field, since most tasks of functions need none."""
        return entropy(self.lane_seed, self.turn) if self.turn else NO_ENTROPY

    def begin(self, task: TaskInput) -> None:
        """Be the facts of this task from now on; the log is emptied."""
        self.now_ms = task.now_ms
        self.turn = task.turn
        self.tensors = task.tensors
        if self.log.is_used:
            self.log.clear()


def fold_facts(fold: Fold, program: Program = NO_PROGRAM) -> TaskFacts:
    """Return what the tasks of a fold have in common."""
    limits = fold.code.limits
    return TaskFacts(0, fold.lane_seed, 0, TaskLog(limits.log_bytes), limits, program=program)


class HostedGuest(Protocol):
    """The running guest, as host functions see it. Pointers, sizes and fuel are unsigned."""

    has_memory: bool
    """False in the start function, until `find_memory`."""

    def find_memory(self, caller: Any) -> None:
        """Take the memory from the caller of a host function."""
        ...

    def read(self, pointer: int, size: int) -> bytes | None:
        """Return a copy of guest memory; None if that is outside."""
        ...

    def write(self, pointer: int, data: bytes | memoryview) -> bool:
        """Copy `data` into guest memory; return False, and write nothing, if that is outside."""
        ...

    def memory_bytes(self) -> int:
        """Return the size of the memory now."""
        ...

    def charge(self, fuel: int) -> None:
        """Take fuel from the guest. Raises `OutOfFuel` if none would be left; host functions let it through."""
        ...


ImportFunction = Callable[..., int | None]  # (guest, *unsigned integers) -> an integer; None where there is no result
ImportFunctions = Mapping[tuple[str, str], tuple[FuncType, ImportFunction]]  # by module and name


class HostCalls:
    """The functions that guests may import, and the task that they serve."""

    def __init__(self, engine: Engine, tensors: TensorAccess | None) -> None:
        self._engine = engine
        self.cells = api.CallCells()
        self._callbacks: list[Any] = []  # called from native code, so they live as long as the linkers
        self._guest: HostedGuest | None = None
        self._kept: BaseException | None = None
        self._process: Process | None = None
        self.tensors = TaskTensors(tensors)
        self.rota = RotaCalls(self.tensors)
        self.facts: TaskFacts | None = None

    @property
    def stdout(self) -> bytes:
        """What the task has written to standard output, if its facts keep it: up to `stdout_bytes_max` + 1 bytes."""
        return self._process.stdout() if self._process is not None else b""

    @property
    def guest(self) -> HostedGuest:
        """The guest that runs."""
        assert self._guest is not None, "a guest attaches itself before it runs"
        return self._guest

    @property
    def fault(self) -> str:
        """Why this host cannot do the task, whatever the guest returned; "" if nothing is wrong."""
        return self.tensors.fault

    def new_linker(self, more: ImportFunctions | None = None) -> Linker:
        """Return a linker with all functions, and those of `more`: i32 and i64 only, at most one result.

        The caller closes it, before this object.
        """
        linker = Linker(self._engine)
        define = self._define
        for name, method in self.rota.functions.items():
            define(linker, OWN_MODULE, name, OWN_IMPORTS[name], method)
        for name in WASI_FUNCTIONS:
            define(linker, WASI_MODULE, name, WASI_IMPORTS[name], self._wasi_function(name))
        for (module, name), (signature, function) in (more or {}).items():
            define(linker, module, name, signature, function)
        return linker

    def begin(self, facts: TaskFacts, process: Process | None = None) -> None:
        """Serve this task from now on, before its guest is instantiated or called. `process`: that of its call."""
        self.facts = facts
        self.tensors.given = facts.tensors
        self.tensors.earlier = facts.tensors_earlier
        self.tensors.bytes_max = facts.limits.tensor_bytes
        self.rota.log = facts.log
        if process is not None:
            process.go_on(now_ms=facts.now_ms, entropy=facts.entropy, log=facts.log.write)
            self._process = process

    def take_process(self) -> Process | None:
        """Return the process of the task, which does not end with it; None if it was not needed."""
        process, self._process = self._process, None
        return process

    def attach(self, guest: HostedGuest) -> None:
        """Serve this guest from now on."""
        self._guest = guest

    def end(self) -> None:
        """Serve no task, and release what was made for it."""
        self._guest = self._kept = self.facts = None
        if self.tensors.is_used:
            self.tensors.end()
        if self._process is not None:
            self._process.close()
            self._process = None

    def close(self) -> None:
        self._callbacks.clear()

    def raise_kept(self, error: WasmtimeError, where: str) -> None:
        """Raise what a host function has raised to stop the guest in `where`; nothing if none has.

        `error`: what the engine makes of a guest that a host function stopped.
        """
        kept, self._kept = self._kept, None
        if kept is None:
            return
        if isinstance(kept, OutOfFuel):
            raise GuestFault("fuel", f"out of fuel in {where}", stack_of(error))
        if isinstance(kept, GuestFail):
            raise kept.fault(error)
        if isinstance(kept, ProcessExit):
            raise GuestExit(kept.code, where, stack_of(error))
        if isinstance(kept, FreezeReached):
            raise Frozen(kept.note)
        if isinstance(kept, MemoryError):
            raise GuestStopped("faulted", f"{where}: the host has no memory for a host function")
        raise kept

    def process(self) -> Process:
        """Return the task as WASI sees it; made when it is first needed."""
        if self._process is None:
            facts = self.facts
            assert facts is not None, "a guest runs between begin and end"
            self._process = Process(
                facts.program,
                now_ms=facts.now_ms,
                entropy=facts.entropy,
                memory_bytes=facts.limits.memory_bytes,
                stdin=facts.stdin,
                stdout_bytes_max=facts.stdout_bytes_max,
                log=facts.log.write,
                freezes=facts.freezes,
                tensors=None if facts.freezes else self.tensors,
            )
        return self._process

    def _wasi_function(self, name: str) -> ImportFunction:
        function = WASI_FUNCTIONS[name]

        def call(guest: HostedGuest, *values: int) -> int | None:
            return call_function(function, self._process or self.process(), guest, values)

        return call

    def _define(self, linker: Linker, module: str, name: str, signature: FuncType, function: ImportFunction) -> None:
        places = [(api.WORDS_PER_VALUE * index, MASKS[kind]) for index, kind in enumerate(signature.params)]
        has_result = bool(signature.results)

        def call(_env: object, caller: int, words: Any, _count: int) -> int:
            try:
                guest = self._guest
                assert guest is not None, "a guest attaches itself before it runs"
                if not guest.has_memory:
                    guest.find_memory(caller)
                result = function(guest, *[words[place] & mask for place, mask in places])
                if has_result:
                    words[0] = result
            except BaseException as error:  # nothing may cross wasmtime
                self._kept = error
                return int(api.trap_new(_TRAP_TEXT, len(_TRAP_TEXT)))
            return 0

        callback = api.HostCallback(call)
        self._callbacks.append(callback)
        engine_type = _engine_type(signature)  # alive until the call returns
        where, what = module.encode(), name.encode()
        error = api.linker_define_func(
            linker.ptr(), where, len(where), what, len(what), engine_type.ptr(), callback, None,
            api.NO_FINALIZER,
        )  # fmt: skip
        assert not error, f"{module}.{name} is defined once"


def _engine_type(signature: FuncType) -> EngineFuncType:
    types = {"i32": ValType.i32, "i64": ValType.i64}
    return EngineFuncType([types[kind]() for kind in signature.params], [types[kind]() for kind in signature.results])
