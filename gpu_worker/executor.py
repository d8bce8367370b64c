"""Runs folds of model tasks: payload in, result payload and provenance out. Implements `FoldRunner` of
worker/fold_executor.py.

A mistake in the payload or the model is the task's outcome. What this worker cannot do is not an outcome, and the
broker decides: a model that is missing or does not load ends the fold as `refused`; a call that cannot be done here (a
tensor is missing, host or device refuse memory) ends it as `faulted`. Every task runs alone at its own shape, so no
task can see its neighbours. Batching needs certificates that allow it, and then another `Executor`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rota.common.errors import BadPayload, CodeError, TensorError
from rota.common.limits import MESSAGE_CHARS_MAX, OUTPUT_BYTES_MAX, TENSORS_PER_TASK_MAX
from rota.common.model_call import decode_call
from rota.common.work import (
    MODEL,
    NO_OUTCOMES,
    Code,
    Done,
    Failed,
    Fold,
    FoldResult,
    Limits,
    Outcome,
    Provenance,
    TaskInput,
)
from rota.gpu_worker.fingerprint import machine_facts
from rota.gpu_worker.inference import Inference, RunEnded
from rota.gpu_worker.providers import choose
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.sessions import SESSIONS_MAX, LoadedModel, LoadInterrupted, Sessions
from rota.gpu_worker.watchdog import RunWatchdog
from rota.tensors.store import TensorStore


class OnnxExecutor:
    """Runs model tasks on one device. Call it from one thread, except for `interrupt`."""

    def __init__(
        self,
        models_dir: Path,
        tensors: TensorStore | None,
        *,
        device: str = "auto",
        require: bool = False,
        threads: int = 1,
        sessions_max: int = SESSIONS_MAX,
        stuck: Callable[[], None] | None = None,
    ) -> None:
        """`device` is for `choose`: "auto" falls back to the CPU and says so; with `require` that is a `ConfigError`.

        `stuck` is called in another thread when a task timed out and does not stop.
        """
        self.provider, self.reason, wanted = choose(device, require=require)
        self._watchdog = RunWatchdog(stuck)
        self._outcomes: list[Outcome] = []  # of the running fold
        self._provenance: Provenance | None = None
        self._inference = Inference(tensors, self._watchdog)
        self._sessions = Sessions(Repository(models_dir), threads=threads, require=wanted, kept=sessions_max)
        self._threads = threads

    def fingerprint(self) -> Mapping[str, Any]:
        """Return the facts shared by all models of this worker; a result names its session's whole fingerprint."""
        return {**machine_facts(self.provider), "threads": str(self._threads), "reason": self.reason}

    def prepare(self, code: Code, address: str) -> Mapping[str, Any]:
        """Load a model, run its warm-up, and describe it.

        Raises `CodeError` if it is missing, damaged, or cannot run on the required device.
        """
        assert code.kind == MODEL, (code.kind, address)
        return self._sessions.get(code.digest).description()

    def preparation(self, code: Code) -> Callable[[], LoadedModel] | None:
        """Return a function that loads a model and runs its warm-up, callable in any thread; None if it is loaded."""
        return None if self._sessions.has(code.digest) else lambda: self._sessions.load(code.digest)

    def install(self, code: Code, prepared: LoadedModel) -> None:
        """Add a loaded model to the cache, evicting the least recently used one if it is full."""
        self._sessions.keep(code.digest, prepared)

    def stop_preparing(self) -> None:
        """Interrupt the running warm-ups; building a session cannot be interrupted."""
        self._sessions.stop_loading()

    def so_far(self) -> FoldResult:
        """Return the outcomes before the task that timed out."""
        return FoldResult(tuple(self._outcomes), None, "timeout", provenance=self._provenance)

    def run(self, fold: Fold) -> FoldResult:
        """Run a fold's tasks in order, each alone."""
        assert fold.code.kind == MODEL, (fold.code.kind, fold.address)
        outcomes = self._outcomes = []
        provenance = self._provenance = None
        self._watchdog.begin_fold()
        try:
            model = self._sessions.get(fold.code.digest)
            provenance = self._provenance = Provenance("recorded", model.opened.provider, model.fingerprint)
            result_bytes = 0
            for task in fold.tasks:
                if result_bytes > OUTPUT_BYTES_MAX:  # a fold's outcomes go into one message: the rest runs again later
                    return FoldResult(tuple(outcomes), None, "interrupted", provenance=provenance)
                outcomes.append(outcome := self._answer(model, task, fold.code.limits))
                result_bytes += len(outcome.result or b"") if type(outcome) is Done else 0
        except RunEnded as end:
            return FoldResult(tuple(outcomes), None, end.stopped, end.reason, provenance)
        except LoadInterrupted:
            return FoldResult(NO_OUTCOMES, None, "interrupted")
        except CodeError as error:
            return FoldResult(NO_OUTCOMES, None, "refused", error.message)
        finally:
            self._watchdog.end_fold()
        return FoldResult(tuple(outcomes), None, provenance=provenance)

    def interrupt(self) -> None:
        """Stop the running fold soon. Callable from any thread; does nothing if none runs."""
        self._watchdog.interrupt()

    def close(self) -> None:
        """Release sessions and the watchdog's thread."""
        self._sessions.clear()
        self._watchdog.close()

    def _answer(self, model: LoadedModel, task: TaskInput, limits: Limits) -> Outcome:
        """Return a task's outcome. Raises `RunEnded` if there is none."""
        if self._watchdog.interrupted():
            raise RunEnded("interrupted", "")
        try:
            call = decode_call(task.payload, task.tensors)
            result, references = self._inference.run(model, call, task.tensors, limits.timeout_ms)
        except BadPayload as error:
            return _failed("bad_input", error.message)
        except TensorError as error:
            raise RunEnded("faulted", error.message) from error
        except MemoryError as error:
            raise RunEnded("faulted", f"not enough memory for model {model.entry.name}: {error}") from error
        if len(result) > limits.result_bytes:
            return _failed("bad_output", f"the result has {len(result)} bytes, the limit is {limits.result_bytes}")
        if len(references) > TENSORS_PER_TASK_MAX:
            return _failed(
                "bad_output", f"the result has {len(references)} large tensors, at most {TENSORS_PER_TASK_MAX}"
            )
        return Done(result, None, (), (), 0, references)


def _failed(kind: str, message: str) -> Failed:
    return Failed(kind, message[:MESSAGE_CHARS_MAX], (), 0)
