"""The seam between a worker and what runs its tasks: take jobs, step, report. PURE.

An executor takes work without running it, and does one piece of it per `step`: whatever is best to do next over all
that it has taken. A step may serve several jobs, and a job may take many steps; what came of it is reported when it
is there. So an executor can let model calls of many jobs ride together, advance many texts by a token each, or run one
job while the code of another is compiled. `fold_executor.py` makes an executor of something that runs one fold at a
time; `loop.py` drives any.

`take`, `step` and `close` belong to one thread. `drop` comes from others. An executor calls `Outside` from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from rota.common.work import Code, Fold, FoldResult

# --- jobs ---------------------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """Folds to run. They need nothing of each other, so their order is the executor's. Ends with `Ended`."""

    number: int
    folds: tuple[Fold, ...]


class Look(NamedTuple):
    """Code to load, so that its first task does not wait, and to describe. Ends with `Looked`."""

    number: int
    code: Code
    address: str


Job = Work | Look

# --- reports ------------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """A job of folds is through: a result for each, in their order; None if it was dropped before one began.

    `elapsed_us` is what running took, no waiting.
    """

    job: int
    results: tuple[FoldResult, ...] | None
    elapsed_us: int


class Looked(NamedTuple):
    """What code looks like, or why it cannot be used (then `info` is None)."""

    job: int
    info: Mapping[str, Any] | None
    message: str


class Preparing(NamedTuple):
    """What is compiled or loaded now, all of it: the job that waits for it, and an address that it is for."""

    pending: tuple[tuple[int, str], ...]


class Stuck(NamedTuple):
    """A job was told to stop and does not; it ends later, if ever, and nothing else runs before.

    `results`: because a task ran out of time; that fold says so, and what did not come to its end is `interrupted`.
    None: because nobody wants it any more.
    """

    job: int
    results: tuple[FoldResult, ...] | None
    elapsed_us: int


Report = Ended | Looked | Preparing | Stuck


class Outside(NamedTuple):
    """What an executor may call, from any of its threads. Both return at once."""

    wake: Callable[[], None]  # something can go on: `step` again
    tell: Callable[[Report], None]  # a report that does not wait for the end of a step


class Executor(Protocol):
    """Runs jobs. Nothing an agent or a model does may raise out of it: that is an outcome."""

    def fingerprint(self) -> Mapping[str, Any]:
        """Everything that could change a bit of a result: versions, profile, provider, device. MessagePack-able."""
        ...

    def take(self, job: Job) -> None:
        """Take a job; it is run by `step`."""
        ...

    def step(self) -> Sequence[Report]:
        """Do a piece of what was taken and return what came of it; nothing if nothing can go on before a `wake`."""
        ...

    def drop(self, job: int) -> None:
        """Interrupt a job, soon; it ends all the same. From any thread, more than once, also when it is not there."""
        ...

    def close(self) -> None:
        """Release the engine, sessions and files."""
        ...
