"""A worker process with a tiny executor, for test_worker_loop.py: `echo_worker.py DIR`.

The payload selects what a task does: `slow` runs until it is interrupted, `stuck` runs past its timeout and does not
stop until a file `free` exists, `big` gives a large result, `bug` raises an exception, `talk` generates text meanwhile,
anything else is returned as the result. Code with `reuse` is not ready until a file `compiled` exists.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rota.common.errors import CodeError
from rota.common.work import Code, Done, Fold, FoldResult
from rota.host.config import WorkerSettings
from rota.host.service import run_process
from rota.worker.executor import Job, Outside, Streaming, Work
from rota.worker.fold_executor import FoldExecutor
from rota.worker.loop import serve_worker

BIG_BYTES = 30 << 20
TALK = ((0, "so "), (3, "much "), (8, "text"), (0, "anew"))


def await_file(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


class EchoRunner:
    def __init__(self, run_dir: Path, stuck: Callable[[], None]) -> None:
        self._run_dir = run_dir
        self._stuck = stuck
        self._interrupted = threading.Event()
        self._compiled: dict[Code, None] = {}
        self._outcomes: list[Done] = []

    def fingerprint(self) -> Mapping[str, Any]:
        return {"echo": "1"}

    def prepare(self, code: Code, address: str) -> Mapping[str, Any]:
        if address == "bad":
            raise CodeError("bad cannot be loaded: name something else")
        return {"address": address}

    def preparation(self, code: Code) -> Callable[[], None] | None:
        if not code.reuse or code in self._compiled:
            return None
        return lambda: await_file(self._run_dir / "compiled")

    def install(self, code: Code, prepared: None) -> None:
        self._compiled[code] = None

    def stop_preparing(self) -> None:
        (self._run_dir / "compiled").touch()

    def so_far(self) -> FoldResult:
        return FoldResult(tuple(self._outcomes), None, "timeout")

    def run(self, fold: Fold) -> FoldResult:
        self._interrupted.clear()
        outcomes = self._outcomes = []
        for task in fold.tasks:
            if task.payload == b"bug":
                raise ZeroDivisionError("a planted bug")
            if task.payload == b"slow":
                print("running slow", flush=True)
                self._interrupted.wait()
                return FoldResult(tuple(outcomes), fold.state, "interrupted")
            if task.payload == b"stuck":
                print("running stuck", flush=True)
                self._stuck()
                await_file(self._run_dir / "free")
                return FoldResult(tuple(outcomes), fold.state, "timeout")
            result = bytes(BIG_BYTES) if task.payload == b"big" else task.payload
            outcomes.append(Done(result, None, (), (), task.turn, task.tensors))
        return FoldResult(tuple(outcomes), fold.state)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        print("executor closed", flush=True)


class EchoExecutor(FoldExecutor):
    """Says the text of `talk` in pieces when it gets the task."""

    def __init__(self, make_runner: Callable[[Callable[[], None]], EchoRunner], outside: Outside) -> None:
        super().__init__(make_runner, outside)
        self._outside = outside

    def take(self, job: Job) -> None:
        folds = job.folds if isinstance(job, Work) else ()
        for address, task in [(one.address, task) for one in folds for task in one.tasks if task.payload == b"talk"]:
            for offset, text in TALK:
                self._outside.tell(Streaming(job.number, address, task.turn, offset, text))
        super().take(job)


def main() -> int:
    settings = WorkerSettings(run_dir=Path(sys.argv[1]), worker="echo-1")
    folder = Path(sys.argv[1])

    def make(outside: Outside) -> FoldExecutor:
        return EchoExecutor(lambda stuck: EchoRunner(folder, stuck), outside)

    return run_process("echo-1", "debug", lambda: serve_worker("cpu", settings, make))


if __name__ == "__main__":
    sys.exit(main())
