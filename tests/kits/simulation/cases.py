"""A seed's runs and their verdict; repeating and shrinking failures.

A case is one plan, or the same pinned plan for several numbers of workers, whose lane digests must be equal. Shrinking
leaves out faults, errands and knobs in ever smaller groups, then takes fewer workers, clients and lanes, and keeps what
still fails in the same way. It is deterministic: the same case shrinks to the same case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from simulation.plan import Plan, make_plan
from simulation.world import Report, simulate

WORKERS_COMPARED = (1, 2, 4, 8)
PINNED_EVERY = 3  # seeds
SHRINK_RUNS_MAX = 250
PINNED_LANE = "pinned"

Case = tuple[Plan, ...]


class Verdict(NamedTuple):
    """The result of a case."""

    case: Case
    failure: str  # empty: everything passed
    reports: tuple[Report, ...]

    @property
    def story(self) -> tuple[str, ...]:
        return self.reports[-1].story

    @property
    def kind(self) -> str:
        """The failure without its numbers, to compare kinds of failures."""
        return re.sub(r"\d+|b'[^']*'", "#", self.failure)[:60]


class Shrunk(NamedTuple):
    """The smallest case found that fails in the same way."""

    verdict: Verdict
    runs: int


def cases_of(seed: int) -> list[Case]:
    """The plans of a seed: a free one, and for some seeds a pinned one for 1, 2, 4 and 8 workers."""
    found: list[Case] = [(make_plan(seed),)]
    if seed % PINNED_EVERY == 0:
        found.append(pinned_case(seed))
    return found


def pinned_case(seed: int) -> Case:
    return tuple(make_plan(seed, pinned=True, workers=workers) for workers in WORKERS_COMPARED)


def judge(case: Case) -> Verdict:
    """Run a case."""
    reports: list[Report] = []
    for plan in case:
        reports.append(simulate(plan))
        if reports[-1].failure:
            return Verdict(case, reports[-1].failure, tuple(reports))
    digests = {report.plan.workers: dict(report.lane_digests).get(PINNED_LANE) for report in reports}
    failure = "" if len(set(digests.values())) == 1 else f"the digest depends on the number of workers: {digests}"
    return Verdict(case, failure, tuple(reports))


# --- repeating -----------------------------------------------------------------------------------------------------


def command(case: Case) -> str:
    """The command that repeats a case exactly."""
    first = case[0]
    dealt = make_plan(first.seed, pinned=first.pinned)
    changes = {
        name: value
        for name, value in first._asdict().items()
        if value != getattr(dealt, name) and not (name == "workers" and len(case) > 1)
    }
    words = ["python3 scripts/simulate.py", "--seed", str(first.seed)]
    words += ["--pinned"] if first.pinned else []
    if changes:
        words += ["--only", f"'{json.dumps(changes, separators=(',', ':'))}'"]
    return " ".join(words)


def case_of(seed: int, pinned: bool, only: str) -> Case:
    """The case that a command names."""
    changes: dict[str, Any] = {name: _frozen(value) for name, value in json.loads(only or "{}").items()}
    plans = pinned_case(seed) if pinned and "workers" not in changes else (make_plan(seed, pinned=pinned),)
    return tuple(plan._replace(**changes) for plan in plans)


def _frozen(value: Any) -> Any:
    return tuple(_frozen(one) for one in value) if isinstance(value, list) else value


# --- shrinking -----------------------------------------------------------------------------------------------------


def shrink(verdict: Verdict, say: Callable[[str], None] = lambda _: None) -> Shrunk:
    """Shrink a failing case while it fails in the same way."""
    assert verdict.failure
    best, runs = [verdict], 0
    moved = True
    while moved:
        moved = False
        for smaller in _smaller(lambda: best[-1].case):
            if runs >= SHRINK_RUNS_MAX:
                return Shrunk(best[-1], runs)
            runs += 1
            found = judge(smaller)
            if found.failure and found.kind == verdict.kind:
                best.append(found)
                moved = True
                say(found.case[0].size())
    return Shrunk(best[-1], runs)


def _smaller(case: Callable[[], Case]) -> Iterator[Case]:
    """Yield smaller cases than the current one, which changes while they are tried."""
    for field in ("faults", "errands", "knobs"):
        size = len(getattr(case()[0], field))
        while size:
            start = 0
            while start < len(getattr(case()[0], field)):
                before = getattr(case()[0], field)
                yield _with(case(), **{field: before[:start] + before[start + size :]})
                if getattr(case()[0], field) == before:
                    start += size
            size //= 2
    for field, values in (
        ("workers", (1, 2)), ("gpu_workers", (1,)), ("clients", (1,)), ("lanes", (1, 2)), ("deadly", (False,)),
        ("reserves_wal", (False,)), ("world", ((),)), ("heartbeat_ms", (1_000,)), ("pace", (1,)),
        ("snapshots", ((0, 0, 0, 0),)),
    ):  # fmt: skip
        for value in values:
            present = getattr(case()[0], field)
            single = field != "workers" or len(case()) == 1
            if present != value and single and (not isinstance(value, int) or value < present or field != "workers"):
                yield _with(case(), **{field: value})
    yield _with(case(), duration_ms=max(100, case()[0].duration_ms // 2))


def _with(case: Case, **changes: Any) -> Case:
    return tuple(plan._replace(**changes) for plan in case)
