"""Runs the folds of a CPU worker: tasks in, outcomes out. Implements `FoldRunner` of worker/fold_executor.py.

Each task: encode the input (agents), call in the sandbox, decode, pass the state to the next task. A failed task leaves
the state unchanged. The engine, the sandbox and the code store belong to the thread that calls `prepare` and `run`;
only `interrupt` may be called from others. One such thread per process is allowed, because wasmtime's Python package
keeps host exceptions in one slot. Start it after `profile.use_large_thread_stacks()`. If `faulthandler` is used, enable
it before the first executor is made; afterwards it would turn every trap into a crash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from rota.common.code_kinds import IS_COMPONENT, kind_of
from rota.common.component_binary import HANDLE
from rota.common.errors import CodeError
from rota.common.limits import LIVE_CALLS_DEFAULT, OUTPUT_BYTES_MAX, PAYLOAD_BYTES_MAX
from rota.common.work import (
    COMMAND,
    FUNCTION,
    NO_OUTCOMES,
    SOURCE,
    Code,
    Done,
    Failed,
    Fold,
    FoldResult,
    Outcome,
    TaskInput,
)
from rota.cpu_worker import abi
from rota.cpu_worker.call_runs import CallRuns
from rota.cpu_worker.code_store import CodeStore
from rota.cpu_worker.command_runs import run_command
from rota.cpu_worker.compiler import Compiler
from rota.cpu_worker.component_guest import PreparedComponent
from rota.cpu_worker.component_runs import Components
from rota.cpu_worker.contents import Contents
from rota.cpu_worker.guest import GuestFault, GuestStopped, PreparedCode, check_fits
from rota.cpu_worker.guest_memory import guest_memories
from rota.cpu_worker.host_calls import TaskFacts, fold_facts
from rota.cpu_worker.host_limits import check_guest_room, check_stack
from rota.cpu_worker.image_guest import PreparedSource
from rota.cpu_worker.image_maker import ImageMaker
from rota.cpu_worker.open_turns import OpenTurns
from rota.cpu_worker.outcome_tensors import keep_tensors
from rota.cpu_worker.profile import fingerprint, new_engine
from rota.cpu_worker.reuse_check import check_reuse
from rota.cpu_worker.sandbox import Sandbox
from rota.cpu_worker.source_store import SourceStore
from rota.cpu_worker.tensor_access import TensorAccess
from rota.cpu_worker.watchdog import EpochWatchdog
from rota.runtimes.folder import runtimes_folder
from rota.wasi.program import Program
from rota.worker.executor import stopped_by


class WasmExecutor:
    """Runs agents and functions (see `worker/executor.py`)."""

    def __init__(
        self,
        modules_dir: Path,
        artefacts_dir: Path,
        tensors: TensorAccess | None,
        clock: Callable[[], float],
        *,
        raw_calls: bool = True,
        live_calls: int = LIVE_CALLS_DEFAULT,
        runtimes_dir: Path | None = None,
    ) -> None:
        """Make the engine. `modules_dir` holds `<digest>.wasm` and `<digest>.bundle`; `artefacts_dir` is a cache, and
        `runtimes_dir` one of the user (None: the usual place); `clock`: monotonic ms. `live_calls`: of how many calls
        of flows the guest is kept, at most LIVE_CALLS_MAX; fewer where address space is limited.

        Raises `ConfigError` if this thread has no memory or stack for guests, or the cache cannot be used.
        """
        check_guest_room()
        check_stack()
        memories = guest_memories(live_calls)
        self._engine = new_engine(memories.configure)
        compiler = Compiler(self._engine, artefacts_dir, maps_images=memories.maps_images)
        self._watchdog = EpochWatchdog(self._engine, clock)
        self._sandbox = Sandbox(self._engine, memories, self._watchdog, tensors, raw_calls=raw_calls)
        self._calls = CallRuns(self._sandbox, self._watchdog, tensors, memories)
        self._compiler = compiler
        self._tensors = tensors
        contents, hosts = Contents(modules_dir), self._sandbox.hosts
        self._images = ImageMaker(
            self._engine, artefacts_dir, runtimes_dir or runtimes_folder(), maps_images=memories.maps_images
        )
        self._sources = SourceStore(self._engine, contents, self._images, hosts)
        self._codes = CodeStore(contents, compiler, self._sandbox.linker, self._sources)
        self._components = Components(modules_dir, artefacts_dir, memories, self._watchdog)

    def fingerprint(self) -> Mapping[str, Any]:
        return fingerprint()

    def prepare(self, code: Code, address: str) -> Mapping[str, Any]:
        """Compile, check and link the code of `address`. Raises `CodeError`."""
        if kind_of(code).content == IS_COMPONENT:
            self._components.try_out(self._components.get(code), code.limits.memory_bytes)
            return {"kind": code.kind, "call": HANDLE}
        prepared = self._codes.get(code)
        try:
            check_fits(prepared, code.limits.memory_bytes)
        except GuestFault as fault:
            raise CodeError(f"{fault.message}: no task could run; deploy it with more (--memory)") from None
        if code.reuse:
            check_reuse(self._sandbox, prepared, code, address)
        facts = {"kind": code.kind, **({"flow": True} if code.flow else {})}
        if isinstance(prepared, PreparedSource):
            return {**facts, "runtime": prepared.call, "memory_bytes_min": prepared.memory_bytes_min}
        return {
            **facts,
            "alloc": prepared.alloc,
            "call": prepared.call,
            "initialize": prepared.has_initialize,
            "memory_bytes_min": prepared.memory_bytes_min,
        }

    def preparation(self, code: Code) -> Callable[[], None] | None:
        if kind_of(code).content == IS_COMPONENT:
            return self._components.preparation(code)
        return self._codes.preparation(code)

    def install(self, code: Code, prepared: None) -> None:
        """Do nothing: the compiler keeps the code for the next `run`."""

    def stop_preparing(self) -> None:
        self._compiler.stop()
        self._components.stop()
        self._images.stop()

    @property
    def steps_again(self) -> int:
        """How many steps of calls ran again so far, since the guest of their call was not kept."""
        return self._calls.steps_again

    def so_far(self) -> FoldResult:
        raise AssertionError("a guest can always be stopped")

    def run(self, fold: Fold) -> FoldResult:
        try:
            prepared: PreparedCode | PreparedComponent = (
                self._components.get(fold.code)
                if kind_of(fold.code).content == IS_COMPONENT
                else self._codes.get(fold.code)
            )
        except CodeError as error:
            return FoldResult(NO_OUTCOMES, None, stopped_by(error), error.message)
        self._sandbox.begin(prepared, fold.code)
        try:
            if fold.code.flow:
                return self._calls.run(fold, prepared.program)
            return self._run_tasks(fold, prepared.program)
        finally:
            self._sandbox.end()

    def interrupt(self) -> None:
        self._watchdog.interrupt()

    def close(self) -> None:
        self._watchdog.close()
        self._calls.give_up()
        self._codes.close()
        self._components.close()
        self._sources.close()
        self._sandbox.close()
        self._engine.close()

    def _run_tasks(self, fold: Fold, program: Program) -> FoldResult:
        self._open = OpenTurns(fold.open)
        run_task = {FUNCTION: self._run_function, COMMAND: self._run_command}.get(fold.code.kind, self._run_agent)
        outcomes: list[Outcome] = []
        state, new_state = fold.state, None
        answered_bytes = 0
        sandbox, facts = self._sandbox, fold_facts(fold, program)
        log = facts.log
        for task in fold.tasks:
            # A fold's outcomes go into one message; tasks that do not fit run again in another assignment.
            if self._watchdog.reason_to_stop() == "interrupted" or answered_bytes > OUTPUT_BYTES_MAX:
                return FoldResult(tuple(outcomes), new_state, "interrupted")
            facts.begin(task)
            try:
                outcome, changed = run_task(fold, task, state, facts)
                if (sandbox.made or sandbox.answer_bytes > PAYLOAD_BYTES_MAX) and type(outcome) is Done:
                    outcome = keep_tensors(outcome, sandbox.made, self._tensors)
            except GuestFault as fault:
                if fold.code.kind != SOURCE:  # its stack is the interpreter's, not the author's
                    log.end_with(fault.stack)
                outcome, changed = Failed(fault.kind, fault.message, log.lines(), sandbox.fuel_used), None
            except GuestStopped as stopped:
                return FoldResult(tuple(outcomes), new_state, self._why(stopped), stopped.reason)
            outcomes.append(outcome)
            answered_bytes += sandbox.answer_bytes
            if type(outcome) is Done:
                self._open.take(task, outcome)
                if changed is not None:
                    state = new_state = changed
        return FoldResult(tuple(outcomes), new_state)

    def _run_agent(
        self, fold: Fold, task: TaskInput, state: bytes | None, facts: TaskFacts
    ) -> tuple[Outcome, bytes | None]:
        data = abi.encode_input(task, address=fold.address, state=state, entropy=facts.entropy)
        answer = self._sandbox.call(data, facts)
        return abi.decode_output(
            answer,
            address=fold.address,
            state=state,
            task=task,
            limits=fold.code.limits,
            fuel=self._sandbox.fuel_used,
            log=facts.log,
            made=self._sandbox.made_refs,
            open_turns=self._open,
        )

    def _run_function(
        self, fold: Fold, task: TaskInput, _state: bytes | None, facts: TaskFacts
    ) -> tuple[Outcome, bytes | None]:
        """Run a function: bytes in, bytes out; no state and no emits. All tensors that it makes are results."""
        answer = self._sandbox.call(task.payload, facts)
        bytes_max, log, fuel = fold.code.limits.result_bytes, facts.log, self._sandbox.fuel_used
        if len(answer) > bytes_max:
            message = f"result: {len(answer)} bytes, at most {bytes_max} (result_bytes)"
            return Failed("bad_output", message, log.lines(), fuel), None
        return Done(answer, None, (), log.lines(), fuel, self._sandbox.made_refs), None

    def _run_command(
        self, _fold: Fold, task: TaskInput, _state: bytes | None, facts: TaskFacts
    ) -> tuple[Outcome, bytes | None]:
        return run_command(self._sandbox, task, facts), None

    def _why(self, stopped: GuestStopped) -> Literal["interrupted", "timeout", "faulted"]:
        if stopped.why != "interrupted":
            return "faulted"
        reason = self._watchdog.reason_to_stop()
        assert reason is not None, "the sandbox itself runs a task again that was stopped without a reason"
        return reason
