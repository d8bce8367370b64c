"""A society of agents and flows that wait for each other: for runs in which processes are killed.

What it is made of: `errand` and `clerk` (tests/kits/agents), and of the SDK the flow `waits` in Rust and `desk` in C.
All that a lane gets from outside comes while nothing in it runs, and what fires by the clock is the only thing
that its lane waits for. So every input has one position, and a lane of the same seed has one digest, whatever dies.

Two ways to drive it: `Driver.cycle`, in which calls of calls stay open until they are told to go on, and some of them
are cancelled; and `clock`, one call that sleeps and meets deadlines. Each waits out a broker that is away.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rota.client import Busy, Client, NotReachable, UnknownTask
from rota.local import LocalLane

REPOSITORY = Path(__file__).resolve().parents[2]
AGENTS = Path(__file__).resolve().parent / "agents"
SDK = REPOSITORY / "sdk"
FAR_MS = 4_102_444_800_000  # when the tasks of a cycle come, pinned: no deadline of theirs can pass
GATES = [f"clerk/gate{number}" for number in range(3)]
CANCEL_EVERY = 7  # of the tasks that stay open
_TIMED_OUT_SECONDS = 240.0
_KINDS: tuple[tuple[str, bytes], ...] = (
    ("errand", b"2 wait"), ("errand", b"1 wait"), ("errand", b"2"), ("waits", b"all"), ("waits", b"as they come"),
    ("waits", b"give on"), ("clerk/0", b"3"), ("clerk/1", b"3"), ("clerk/gate0", b"wait"), ("a/b", b"transfer"),
)  # fmt: skip
T = TypeVar("T")
Answer = tuple[bool, bytes | None, str, str]


def deploy(lane: Client | LocalLane) -> None:
    """Bind the names; in a client, in the lane main, from which others are opened."""
    for name, path, flow in (
        ("clerk", AGENTS / "clerk.wasm", False),
        ("errand", AGENTS / "errand.wasm", True),
        ("a", SDK / "c" / "examples" / "desk.wasm", False),
        ("echo", SDK / "c" / "examples" / "echo.wasm", False),
        ("waits", SDK / "rust" / "examples" / "waits.wasm", True),
    ):
        lane.deploy(name, path, flow=flow)
    if isinstance(lane, Client):
        lane.deploy_model("nobody", bytes(32), check=False)  # which no worker has: deadlines of its tasks always pass


def roots(tasks: int) -> tuple[list[str], list[bytes]]:
    """Return the targets and payloads of the tasks that begin a cycle."""
    chosen = [_KINDS[number % len(_KINDS)] for number in range(tasks)]
    return [target for target, _ in chosen], [payload for _, payload in chosen]


def patiently(work: Callable[[], T]) -> T:
    """Do something that a broker which dies may interrupt, until it is done; it must be repeatable."""
    deadline = time.monotonic() + _TIMED_OUT_SECONDS
    while True:
        try:
            return work()
        except (NotReachable, TimeoutError, Busy, UnknownTask):
            if time.monotonic() > deadline:
                raise


class Driver:
    """Drives lanes through a client of its own. `producer`: its name, which makes its submits repeatable."""

    def __init__(self, where: Path, producer: str) -> None:
        self.client = Client(where, producer=producer, timeout_s=5, contact_s=120)
        self._other = Client(where, timeout_s=5, contact_s=120)  # for what has no number
        self._number = 0

    def close(self) -> None:
        """Close the clients."""
        self.client.close()
        self._other.close()

    def ask(self, lane: str, targets: list[str], payloads: list[bytes], now_ms: int | None = None) -> list[int]:
        """Ask in one atomic batch, and return the seqs."""
        self._number += 1
        number = self._number
        return patiently(
            lambda: self.client.ask_many(
                targets, payloads, lane=lane, number=number, now_ms=now_ms, wait=False
            ).seqs
        )  # fmt: skip

    def idle(self, lane: str) -> dict[str, Any]:
        """Wait until a lane has nothing to do, and return its numbers."""
        return patiently(lambda: self._other.wait_idle(lane, timeout_s=5))

    def answers(self, seqs: list[int]) -> list[Answer]:
        """Wait for the answers in the end."""
        found = patiently(lambda: list(self._other.results(seqs[0], len(seqs), timeout_s=20)))
        return [answer_of(one) for one in found]

    def cycle(
        self, lane: str, tasks: int, when_begun: Callable[[], object] = lambda: None,
        when_open: Callable[[], object] = lambda: None,
    ) -> list[Answer]:  # fmt: skip
        """Begin tasks; when what is open waits for the gates, cancel some and let the rest go on. The functions are
        called while the tasks run, and while all wait.
        """
        seqs = self.ask(lane, *roots(tasks), FAR_MS)
        when_begun()
        self.idle(lane)
        when_open()
        for seq in seqs[::CANCEL_EVERY]:
            patiently(functools.partial(self._other.cancel, seq))
        self.idle(lane)
        self.ask(lane, GATES, [b"go"] * len(GATES), FAR_MS)
        self.idle(lane)
        return self.answers(seqs)


def clock(where: Path, lane: str, rounds: int) -> list[Answer]:
    """Call a flow that sleeps and meets deadlines, in a lane where nothing else is."""
    with contextlib.closing(Driver(where, f"clock-of-{lane}")) as driver:
        found = driver.answers(driver.ask(lane, ["errand"], [b"%d clock" % rounds]))
        driver.idle(lane)
        return found


def undisturbed(seed: bytes, cycles: int, tasks: int, window: int) -> tuple[int, bytes, list[Answer]]:
    """Run cycles in a lane of this process; return how many tasks retired, the digest, and the answers."""
    found: list[Answer] = []
    with LocalLane("society", seed=seed, window=window) as lane:
        deploy(lane)
        for _ in range(cycles):
            batch = lane.ask_many(*roots(tasks))
            lane.run()
            for turn in list(batch)[::CANCEL_EVERY]:
                lane.cancel(turn)
            lane.run()
            lane.ask_many(GATES, [b"go"] * len(GATES))
            lane.run()
            found += [answer_of(one) for one in lane.outcomes(batch)]
        return lane.retired, lane.digest, found


def answer_of(result: Any) -> Answer:
    """Return what must be the same in every run of an answer."""
    return result.ok, result.payload if result.ok else None, result.kind, result.message
