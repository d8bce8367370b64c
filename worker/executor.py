"""What a worker process needs from the thing that runs its tasks. PURE.

`loop.py` drives any executor; `cpu_worker` and `gpu_worker` each have one. An executor belongs to
one thread, except for `interrupt`, which another thread calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rota.common.work import Code, Fold, FoldResult


class Executor(Protocol):
    """Runs folds. Nothing an agent or a model does may raise out of it: that is an outcome."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that could change a bit of a result: versions, profile, provider, device. MessagePack-able."""
        ...

    def prepare(self, code: Code, address: str) -> Mapping[str, Any]:
        """Load the code of `address` so that its first task does not wait, and describe it.

        Raises `CodeError` if it cannot be used, naming what is wrong and the remedy.
        """
        ...

    def run(self, fold: Fold) -> FoldResult:
        """Run a fold's tasks in order; returns early when `interrupt` was called or a task ran out of time."""
        ...

    def interrupt(self) -> None:
        """Stop the fold that is running now, soon; from any thread, harmless when nothing runs."""
        ...

    def close(self) -> None:
        """Release the engine, sessions and files."""
        ...
