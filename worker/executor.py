"""The interface between a worker and what runs its tasks: take jobs, step, report. PURE.

`take` accepts work without running it; each `step` does one piece of it, chosen over all jobs taken. A step may serve
several jobs, a job may need many steps, and results are reported as they arise. So an executor can batch model calls of
many jobs, advance many texts by a token each, or run one job while the code of another is compiled. fold_executor.py
makes an executor of something that runs one fold at a time; loop.py drives any executor.

`take`, `step` and `close` belong to one thread; `drop` is called from others. An executor may call `Outside` from any
thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from rota.common.errors import CodeError
from rota.common.messages import ModelNumbers
from rota.common.work import Code, Fold, FoldResult


class HostFault(CodeError):
    """Code could not be prepared by a fault of this host, so another try may succeed: tasks are `faulted` by it, not
    `refused`.
    """


def stopped_by(error: CodeError) -> Literal["faulted", "refused"]:
    """Return how a fold stopped whose code could not be prepared for this reason."""
    return "faulted" if isinstance(error, HostFault) else "refused"


# --- jobs ---------------------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """Independent folds to run, in any order. Ends with `Ended`."""

    number: int
    folds: tuple[Fold, ...]


class Look(NamedTuple):
    """Code to load ahead of its first task, and to describe. Ends with `Looked`."""

    number: int
    code: Code
    address: str


Job = Work | Look

# --- reports ------------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """A job of folds has ended: a result for each, in order; None if it was dropped before one began.

    `elapsed_us`: the time spent running, without waiting.
    """

    job: int
    results: tuple[FoldResult, ...] | None
    elapsed_us: int


class Looked(NamedTuple):
    """The description of code, or why it cannot be used (then `info` is None)."""

    job: int
    info: Mapping[str, Any] | None
    message: str


class Preparing(NamedTuple):
    """Everything that is being compiled or loaded: the job that waits for it, and an address."""

    pending: tuple[tuple[int, str], ...]


class Stuck(NamedTuple):
    """A job was told to stop and does not; nothing else runs until it ends, if ever.

    `results`: a task timed out; its fold says so, and unfinished folds are `interrupted`. None: the job was dropped.
    """

    job: int
    results: tuple[FoldResult, ...] | None
    elapsed_us: int


class Streaming(NamedTuple):
    """Text that a running task has generated, from this offset in characters on. Advisory."""

    job: int
    address: str
    turn: int
    offset: int
    text: str


class Counted(NamedTuple):
    """The numbers of all loaded models, when some have changed. They go out with the next heartbeat."""

    models: tuple[ModelNumbers, ...]


Report = Ended | Looked | Preparing | Stuck | Streaming | Counted


class Outside(NamedTuple):
    """Callbacks for an executor, callable from any of its threads. Both return at once."""

    wake: Callable[[], None]  # call `step` again, there is work to do
    tell: Callable[[Report], None]  # send a report before the end of a step


class Executor(Protocol):
    """Runs jobs. Errors of agents and models are outcomes and must not be raised.

    Any method may raise `DeviceLost`: nothing can run in this process any more, which then ends as if it had died.
    """

    def fingerprint(self) -> Mapping[str, Any]:
        """Return all that could change a bit of a result (versions, profile, provider, device), for MessagePack."""
        ...

    def take(self, job: Job) -> None:
        """Take a job; `step` will run it."""
        ...

    def step(self) -> Sequence[Report]:
        """Do a piece of work and return reports; does nothing if there is no work before the next `wake`."""
        ...

    def drop(self, job: int) -> None:
        """Interrupt a job soon; it still reports its end. From any thread, repeatedly, and for unknown jobs too."""
        ...

    def close(self) -> None:
        """Release the engine, sessions and files."""
        ...
