"""The loop of simulate.py: runs seeds one after another, shrinks failures, and counts."""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

from _environment import REPOSITORY

KITS = str(REPOSITORY / "tests" / "kits")
TRANSCRIPTS_EVERY = 100  # seeds
TRANSCRIPTS_COMPARED = 3
_HASH_SEEDS = ("1", "2026")


def _cases() -> Any:
    """Return the module that makes cases of seeds; it is among the tests."""
    if KITS not in sys.path:
        sys.path.insert(0, KITS)
    logging.getLogger("rota").setLevel(logging.CRITICAL)  # the broker's log under faults is expected
    return importlib.import_module("simulation.cases")


class Campaign:
    """A series of seeds and their results."""

    def __init__(self, first: int, as_json: bool, shrinks: bool, story_lines: int) -> None:
        self.seeds = 0
        self.failures = 0
        self._next = first
        self._json = as_json
        self._shrinks = shrinks
        self._story_lines = story_lines
        self._cases = _cases()
        self._runs = 0
        self._tasks = 0
        self._boots = 0
        self._simulated_s = 0.0
        self._struck: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._began_s = time.monotonic()

    def run(self, seeds: int | None, minutes: float | None) -> None:
        """Run until the number of seeds or the minutes are reached, whichever is first."""
        while seeds is None or self.seeds < seeds:
            if minutes is not None and time.monotonic() - self._began_s >= minutes * 60:
                return
            self._run_seed(self._next)
            if self.seeds % TRANSCRIPTS_EVERY == 0:
                self._compare_transcripts(self._next)
            self._next += 1

    def summary(self) -> None:
        """Print the totals."""
        facts = {
            "seeds": self.seeds, "runs": self._runs, "failures": self.failures, "tasks": self._tasks,
            "boots": self._boots, "simulated_hours": round(self._simulated_s / 3_600, 3),
            "minutes": round((time.monotonic() - self._began_s) / 60, 1), "faults": dict(sorted(self._struck.items())),
            "seen": dict(sorted(self._seen.items())),
        }  # fmt: skip
        if self._json:
            print(json.dumps(facts), flush=True)
            return
        self._progress(end=True)
        print(
            f"simulate: {self.seeds} seeds, {self._runs} runs, {facts['simulated_hours']} simulated hours, "
            f"{self._tasks} tasks, {self._boots} broker starts, {sum(self._struck.values())} faults, "
            f"{self.failures} failures"
        )
        if not self.seeds:
            print("simulate: no seed was run", file=sys.stderr)

    def _run_seed(self, seed: int) -> None:
        self.seeds += 1
        for case in self._cases.cases_of(seed):
            verdict = self._cases.judge(case)
            for report in verdict.reports:
                self._runs += 1
                self._tasks += report.tasks
                self._boots += report.boots
                self._simulated_s += report.simulated_s
                self._struck.update(dict(report.struck))
                self._seen.update(dict(report.seen))
            if verdict.failure:
                self._report(verdict)
            elif self._json:
                print(json.dumps({"seed": seed, "ok": True, "pinned": case[0].pinned}), flush=True)
        self._progress()

    def _report(self, verdict: Any) -> None:
        self.failures += 1
        self._progress(end=True)
        repeat = self._cases.command(verdict.case)
        facts = {"seed": verdict.case[0].seed, "ok": False, "failure": verdict.failure, "repeat": repeat}
        if not self._json:
            print(f"FAILED seed {facts['seed']}: {verdict.failure}\n    repeat: {repeat}", flush=True)
        smallest, runs = verdict, 0
        if self._shrinks:
            smallest, runs = self._cases.shrink(verdict)
            facts.update(smallest=self._cases.command(smallest.case), shrink_runs=runs)
        if self._json:
            print(json.dumps(facts), flush=True)
            return
        print("\n".join(f"    | {line}" for line in smallest.story[-self._story_lines :]))
        if self._shrinks:
            print(f"    shrunk in {runs} runs to {smallest.case[0].size()}: {smallest.failure}")
            print(f"    repeat the smallest: {facts['smallest']}", flush=True)

    def _compare_transcripts(self, last: int) -> None:
        """Run the last few seeds again under other hash seeds; the transcripts must be equal."""
        first = max(0, last - TRANSCRIPTS_COMPARED + 1)
        command = [sys.executable, str(REPOSITORY / "scripts" / "simulate.py"), "--transcripts"]
        command += ["--seed", str(first), "--seeds", str(TRANSCRIPTS_COMPARED)]
        found = [
            subprocess.run(
                command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=False
            )
            for seed in _HASH_SEEDS
        ]
        ended_well = all(done.returncode == 0 for done in found)
        if found[0].stdout != found[1].stdout or not ended_well:
            self.failures += 1
            what = "the transcript depends on PYTHONHASHSEED" if ended_well else found[0].stderr + found[1].stderr
            repeat = f"PYTHONHASHSEED=N {' '.join(command[1:])}"
            print(json.dumps({"seed": first, "ok": False, "failure": what, "repeat": repeat}) if self._json else what)

    def _progress(self, end: bool = False) -> None:
        """Update the line on a terminal; elsewhere print a line at intervals."""
        if self._json:
            return
        line = (
            f"simulate: seed {self._next}, {self.seeds} seeds, {self._simulated_s / 3_600:.2f} simulated hours, "
            f"{self.failures} failures"
        )
        if sys.stderr.isatty():
            print(f"\r{line}", end="\n" if end else "", file=sys.stderr, flush=True)
        elif self.seeds % 500 == 0 and not end:
            print(line, file=sys.stderr, flush=True)


def repeat(seed: int, pinned: bool, only: str, story_lines: int) -> int:
    """Run one case, print its story and return the exit code."""
    cases = _cases()
    verdict = cases.judge(cases.case_of(seed, pinned, only))
    if not verdict.failure:
        print(f"simulate: held: {verdict.case[0].size()}")
        return 0
    print("\n".join(verdict.story[-story_lines:]))
    print(f"FAILED: {verdict.failure}")
    return 1


def print_transcripts(first: int, seeds: int) -> None:
    """Print a digest of everything that happens under each seed."""
    cases = _cases()
    for seed in range(first, first + seeds):
        for case in cases.cases_of(seed):
            reports = cases.judge(case).reports
            print(seed, case[0].pinned, *(report.transcript for report in reports), flush=True)
