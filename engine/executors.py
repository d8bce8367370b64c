"""The executors of this process: WASM and ONNX behind one `run_all`, each created on first use.

They run in one thread shared by the whole process, with a stack for the deepest guest and grammar: an engine belongs to
one thread, and wasmtime's Python package keeps host exceptions in one slot. An exception in the waiting caller, such as
that of Ctrl-C, stops what runs there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from rota.common.code_kinds import pool_of
from rota.common.errors import CodeError, ConfigError
from rota.common.work import NO_OUTCOMES, Code, Fold, FoldResult
from rota.conversations.store import ConversationStore
from rota.host.endpoints import CONVERSATIONS
from rota.host.install import install_command
from rota.tensors.store import TensorStore
from rota.worker.deep_stack import with_deep_stack
from rota.worker.executor import Ended, Executor, Job, Look, Looked, Outside, Report, Work
from rota.worker.fold_executor import FoldExecutor

_THREAD_NAME: Final = "rota-executor"
_ASK_AGAIN_SECONDS: Final = 0.05

_lock: Final = threading.Lock()
_thread: ThreadPoolExecutor | None = None


class Folders:
    """The folders of executors. They write to `artefacts`, and models with large results write to `tensors`.

    `conversations` is the file of a store that models add to; None: the one beside `tensors`, as in a run folder.
    `certificates` is where new certificates of models go; None: into `models`.
    `lent_tensors` and `lent_conversations` are second stores, only read.
    """

    def __init__(
        self,
        *,
        modules: Path,
        artefacts: Path,
        models: Path,
        tensors: Path,
        lent_tensors: Path | None = None,
        conversations: Path | None = None,
        lent_conversations: Path | None = None,
        certificates: Path | None = None,
    ) -> None:
        self.modules = modules
        self.artefacts = artefacts
        self.models = models
        self.tensors = tensors
        self.lent_tensors = lent_tensors
        self.conversations = conversations or tensors.with_name(CONVERSATIONS)
        self.lent_conversations = lent_conversations
        self.certificates = certificates


class Executors:
    """Runs folds of any code. A context manager; closing releases engines and sessions."""

    def __init__(self, folders: Folders, *, device: str = "auto") -> None:
        """`device`, for models: "auto" uses the GPU if there is one, "cpu" never does."""
        self._folders = folders
        self._device = device
        self._made: dict[str, _Stepped] = {}
        self._stopping = False
        self._closed = False

    def run(self, fold: Fold) -> FoldResult:
        """Run a fold's tasks in order. Raises as `run_all` does."""
        (result,) = self.run_all((fold,))
        return result

    def run_all(self, folds: Sequence[Fold]) -> list[FoldResult]:
        """Run independent folds. Raises `ConfigError` if a needed engine is not installed.

        An exception in this thread, such as that of Ctrl-C, stops the folds and is raised again.
        """
        pools: dict[str, list[int]] = {}
        for place, fold in enumerate(folds):
            pools.setdefault(pool_of(fold.code), []).append(place)
        results = [FoldResult(NO_OUTCOMES, None, "interrupted")] * len(folds)
        for pool, places in pools.items():
            executor = self._executor(pool)
            if self._stopping:
                break
            found = self._run(executor, tuple([folds[place] for place in places]))
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return results

    def _run(self, executor: _Stepped, folds: tuple[Fold, ...]) -> tuple[FoldResult, ...]:
        job = Work(executor.next_number(), folds)
        running = _shared_thread().submit(executor.do, job)
        try:
            while not _has_ended(running):
                if self._stopping:
                    executor.drop(job)  # again, since the first may fall between two folds
        except BaseException:
            while not running.done():
                executor.drop(job)
                _has_ended(running)
            raise
        ended = running.result()
        assert isinstance(ended, Ended)
        return ended.results or (FoldResult(NO_OUTCOMES, None, "interrupted"),) * len(folds)

    def interrupt(self) -> None:
        """Stop the running folds, and run no other until `resume`. Callable from any thread or signal handler."""
        self._stopping = True
        for executor in list(self._made.values()):
            executor.drop_all()

    def resume(self) -> None:
        """Run folds again."""
        self._stopping = False

    def prepare(self, code: Code, address: str) -> Mapping[str, Any]:
        """Load code and describe it. Raises `CodeError` if it cannot be used, `ConfigError` without its engine."""
        executor = self._executor(pool_of(code))
        looked = _shared_thread().submit(executor.do, Look(executor.next_number(), code, address)).result()
        assert isinstance(looked, Looked)
        if looked.info is None:
            raise CodeError(looked.message)
        return looked.info

    def fingerprint(self, pool: str) -> Mapping[str, Any]:
        """Return what could change a bit of a result of this pool ("cpu" or "gpu") in this process."""
        return self._executor(pool).executor.fingerprint()

    def close(self) -> None:
        """Release engines and sessions. Nothing can run afterwards."""
        self._closed = True
        while self._made:
            _call_in_thread(self._made.popitem()[1].executor.close)

    def __enter__(self) -> Executors:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _executor(self, pool: str) -> _Stepped:
        made = self._made.get(pool)
        if self._closed:
            raise ConfigError("the executor of this lane or run is closed: open it again")
        if made is None:
            make = self._make_cpu if pool == "cpu" else self._make_gpu
            made = self._made[pool] = _shared_thread().submit(_Stepped, make).result()
        return made

    def _make_cpu(self, outside: Outside) -> Executor:
        try:
            from rota.cpu_worker.executor import WasmExecutor
            from rota.cpu_worker.tensor_access import StoreTensors
        except ImportError as error:
            raise ConfigError(f"agents and functions need wasmtime ({error}): {install_command('cpu')}") from error
        self._folders.artefacts.mkdir(parents=True, exist_ok=True)
        reader, folders = StoreTensors(self._tensors()), self._folders
        return FoldExecutor(
            lambda _: WasmExecutor(folders.modules, folders.artefacts, reader, lambda: time.monotonic() * 1_000),
            outside,
        )

    def _make_gpu(self, outside: Outside) -> Executor:
        try:
            from rota.gpu_worker.executor import ModelExecutor
        except ImportError as error:
            raise ConfigError(f"models need ONNX Runtime ({error}): {install_command('gpu')}") from error
        folders = self._folders
        conversations = ConversationStore(folders.conversations, lender=folders.lent_conversations)
        return ModelExecutor(
            folders.models,
            self._tensors(),
            outside,
            device=self._device,
            conversations=conversations,
            certificates=folders.certificates,
        )

    def _tensors(self) -> TensorStore:
        return TensorStore(self._folders.tensors, lender=self._folders.lent_tensors)


class _Stepped:
    """An executor that does one job at a time."""

    def __init__(self, make: Callable[[Outside], Executor]) -> None:
        self._woken = threading.Event()
        self._number = 0
        self._running: Job | None = None
        self.executor = make(Outside(self._woken.set, _ignore))

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def do(self, job: Job) -> Ended | Looked:
        """Step the executor until the job has ended. Call it in the executor's thread."""
        self._running = job
        try:
            self.executor.take(job)
            while True:
                self._woken.clear()
                reports = self.executor.step()
                for report in reports:
                    if isinstance(report, Ended | Looked) and report.job == job.number:
                        return report
                if not reports:
                    self._woken.wait()
        finally:
            self._running = None

    def drop(self, job: Job) -> None:
        """Interrupt a job. Callable from any thread."""
        self.executor.drop(job.number)

    def drop_all(self) -> None:
        """Interrupt what runs. Callable from any thread."""
        if (running := self._running) is not None:
            self.drop(running)


def _ignore(_: Report) -> None:
    """Ignore a report that a task does not stop: there is no other work meanwhile, so wait for it."""


def _has_ended(running: Future[Ended | Looked]) -> bool:
    """Wait a short time for a job; return whether it has ended."""
    try:
        running.exception(_ASK_AGAIN_SECONDS)
    except TimeoutError:
        return False
    return True


def _call_in_thread(close: Callable[[], None]) -> None:
    """Call in the shared thread; or here, if this is that thread or it has ended with the interpreter."""
    if threading.current_thread().name.startswith(_THREAD_NAME):  # the garbage collector calls `close` from any thread
        close()
        return
    try:
        running = _shared_thread().submit(close)
    except RuntimeError:  # the pool accepts no more work
        close()
        return
    running.result()


def _shared_thread() -> ThreadPoolExecutor:
    global _thread
    with _lock:
        if _thread is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix=_THREAD_NAME)
            with_deep_stack(lambda: thread.submit(int).result())  # starts the thread
            _thread = thread
        return _thread
