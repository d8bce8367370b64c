"""Runs a fuzz target: valid inputs from a hypothesis strategy, each mutated many times, all from one seed.

A target has a strategy for valid inputs, a mutator (_fuzz_mutators.py) and `start`, which makes its check in a scratch
folder. A check returns True if the input was accepted and False if it was refused as documented. An exception is a
finding, as is an input that takes more processor time or memory than allowed. Hypothesis shrinks the drawn values, the
mutation by its seed; the finding shows the input, to be added to the target's `finds`.

tests/fuzz runs every target for a bounded number of inputs, scripts/fuzz.py for any time.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from _fuzz_mutators import Mutator
from hypothesis import HealthCheck, Phase, example, given, seed, settings
from hypothesis import strategies as st

CPU_SECONDS_MAX: Final = 2.0  # for one input; valid ones take at most a few milliseconds
MEMORY_BYTES_MAX: Final = 1 << 30  # of address space that a target may add
MESSAGE_CHARS_MAX: Final = 3_000
_SHOWN_CHARS: Final = 2_000
_PLACES_SHOWN: Final = 4

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class Target:
    """A decoder of bytes from outside. `finds`: inputs that once broke it, always tried first."""

    name: str
    inputs: st.SearchStrategy[Any]
    mutate: Mutator
    start: Callable[[Path], Check]
    finds: tuple[Any, ...] = ()
    bases: int = 30  # valid inputs of a bounded run
    damaged: int = 12  # mutations of each
    cpu_seconds: float = CPU_SECONDS_MAX


@dataclass
class Tally:
    """The counts of a run."""

    taken: int = 0
    refused: int = 0
    seconds: float = field(default=0.0)

    @property
    def executions(self) -> int:
        return self.taken + self.refused


class Finding(AssertionError):
    """A target misbehaved."""

    def __init__(self, target: str, value: Any, what: str) -> None:
        shown = repr(value)
        cut = f"... ({len(shown)} characters)" if len(shown) > _SHOWN_CHARS else ""
        super().__init__(f"{target}: {what}\n  input: {shown[:_SHOWN_CHARS]}{cut}")


def explore(target: Target, folder: Path, seed_number: int, bases: int | None = None) -> Tally:
    """Try a target with its finds and with mutated inputs. Raises `Finding` for the smallest input that breaks it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    check, tally = target.start(folder), Tally()

    def probe(value: Any) -> None:
        started = time.thread_time()
        try:
            taken = check(value)
        except Exception as error:
            raise Finding(target.name, value, _told(error)) from None
        if time.thread_time() - started > target.cpu_seconds:
            raise Finding(target.name, value, f"it took {time.thread_time() - started:.1f} s of processor time")
        tally.taken += taken
        tally.refused += not taken

    def trial(base: Any, other: Any, chance: int) -> None:
        probe(base)
        rng = Random(chance)
        for _ in range(target.damaged):
            probe(target.mutate(rng, base, other))

    test: Any = given(base=target.inputs, other=target.inputs, chance=st.integers(0, (1 << 32) - 1))(trial)
    for find in target.finds:
        test = example(base=find, other=find, chance=0)(test)
    limits = settings(
        max_examples=bases or target.bases, database=None, deadline=None, derandomize=False, print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )  # fmt: skip
    started = time.monotonic()
    with bounded_memory():
        seed(seed_number)(limits(test))()
    tally.seconds = time.monotonic() - started
    return tally


def check_words(message: str, part: str = "") -> None:
    """Assert that an error message is short and printable, whatever the input."""
    assert part in message
    assert len(message) < MESSAGE_CHARS_MAX, f"an error of {len(message)} characters"


def _told(error: Exception) -> str:
    """Return the error and the innermost frames of its traceback; a RecursionError has thousands."""
    places = "".join(traceback.format_tb(error.__traceback__)[-_PLACES_SHOWN:])
    return f"{type(error).__name__}: {error}"[:_SHOWN_CHARS] + f"\n{places.rstrip()}"


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Make a huge allocation fail with MemoryError, which is a finding. Linux only; no bound elsewhere."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    bound = pages * resource.getpagesize() + MEMORY_BYTES_MAX
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
