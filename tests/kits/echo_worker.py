"""A worker process with a tiny executor, for test_worker_loop.py: `echo_worker.py DIR`.

The payload of a task says what it does: `slow` runs until it is interrupted, `big` gives a large result, `bug` raises
what is no outcome, anything else comes back as the result.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rota.common.errors import CodeError
from rota.common.work import Code, Done, Fold, FoldResult
from rota.host.config import WorkerSettings
from rota.host.service import run_process
from rota.worker.loop import serve_worker

BIG_BYTES = 30 << 20


class EchoExecutor:
    def __init__(self) -> None:
        self._interrupted = threading.Event()

    def fingerprint(self) -> Mapping[str, Any]:
        return {"echo": "1"}

    def prepare(self, code: Code, address: str) -> Mapping[str, Any]:
        if address == "bad":
            raise CodeError("bad cannot be loaded: name something else")
        return {"address": address}

    def run(self, fold: Fold) -> FoldResult:
        self._interrupted.clear()
        outcomes = []
        for task in fold.tasks:
            if task.payload == b"bug":
                raise ZeroDivisionError("a planted bug")
            if task.payload == b"slow":
                print("running slow", flush=True)
                self._interrupted.wait()
                return FoldResult(tuple(outcomes), fold.state, "interrupted")
            result = bytes(BIG_BYTES) if task.payload == b"big" else task.payload
            outcomes.append(Done(result, None, (), (), task.turn, task.tensors))
        return FoldResult(tuple(outcomes), fold.state)

    def interrupt(self) -> None:
        self._interrupted.set()

    def close(self) -> None:
        print("executor closed", flush=True)


def main() -> int:
    settings = WorkerSettings(run_dir=Path(sys.argv[1]), worker="echo-1")
    return run_process("echo-1", "debug", lambda: serve_worker("cpu", settings, EchoExecutor))


if __name__ == "__main__":
    sys.exit(main())
