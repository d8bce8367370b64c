"""The whole verification of `rota verify`: one round for each number of worker processes, and the overall result.

Every round must give the journal's digests, so all rounds agree. The first round that does not is the last: its
divergences are explained while its executors still exist.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from rota.broker import records
from rota.common.code_kinds import kind_of
from rota.common.errors import ConfigError, TensorError
from rota.common.work import TensorRef
from rota.engine.executors import Executors
from rota.proof.divergence import Divergence, Note, explain, other_engines
from rota.proof.processes import Kills, Processes
from rota.proof.verify import Blocked, RunReport, VerifyOptions, verify
from rota.runs.open import RunSource
from rota.tensors.store import TensorStore

IN_PROCESS: Final = 0  # as a number of workers


class Round(NamedTuple):
    """One verification of the whole. `workers`: 0 for this process."""

    workers: int
    report: RunReport
    seconds: float
    kills: int  # processes killed on purpose
    deaths: int  # processes that died otherwise

    @property
    def turns(self) -> int:
        """How many turns it compared or believed."""
        return sum(lane.compared + lane.counts.believed for lane in self.report.lanes)


class Proof(NamedTuple):
    """The result of all rounds; if the last one is equal, they differ only in their time.

    `notes`: differences that are not divergences.
    """

    rounds: tuple[Round, ...]
    divergences: tuple[Divergence, ...]
    notes: tuple[Note, ...]

    @property
    def last(self) -> RunReport:
        return self.rounds[-1].report

    @property
    def verdict(self) -> str:
        """In a word: "equal", "diverged", "damaged" (the journal breaks off), "incomplete" (something is missing)."""
        if any(lane.mismatch or lane.fault for lane in self.last.lanes):
            return "diverged"
        if self.last.damage is not None:
            return "damaged"
        return "equal" if self.last.equal else "incomplete"


def prove(
    source: RunSource,
    workers: Sequence[int],
    options: VerifyOptions,
    *,
    kill_seed: int | None = None,
    progress: Callable[[int, int, int], None] | None = None,
) -> Proof:
    """Verify a run with each of these numbers of worker processes; with a seed, some of those are killed meanwhile.

    `progress` gets the number of workers, how many turns are compared (0 when a round begins), and up to which record.
    Raises what `verify` and `Processes` raise.
    """
    folders = source.folders()
    rounds: list[Round] = []
    notes: tuple[Note, ...] = ()
    for count in workers:
        kills = None if kill_seed is None else Kills(kill_seed + count)
        started = time.perf_counter()
        if progress is not None:
            progress(count, 0, 0)
        with Executors(folders) if count == IN_PROCESS else Processes(folders, count, kills=kills) as runner:
            report = verify(source, runner, options, _of_round(progress, count))
            seconds = time.perf_counter() - started
            deaths = runner.deaths if isinstance(runner, Processes) else 0
            rounds.append(Round(count, report, seconds, kills.done if kills else 0, deaths))
            notes = tuple(other_engines(report, runner))
        if not report.equal:
            return Proof(tuple(rounds), _explain(source, report, options), notes)
        assert _digests(report) == _digests(rounds[0].report), "equal to the same journal, and not to each other"
    return Proof(tuple(rounds), (), notes)


def lane_of(source: RunSource) -> str:
    """Return the only lane of a run with tasks. Raises `ConfigError` if there are several or none."""
    found = {record.lane: None for _, record in source.records() if isinstance(record, records.Submitted)}
    if len(found) != 1:
        known = ", ".join(sorted(found)[:8]) or "none"
        raise ConfigError(f"turns are counted in each lane: name one with --lane (lanes with tasks: {known})")
    return next(iter(found))


def remedy_of(source: RunSource, blocked: Blocked) -> str:
    """Return what to do so that a turn can be computed again."""
    task = blocked.task
    folders = source.folders()
    store = TensorStore(folders.tensors, lender=folders.lent_tensors)
    if not all(_is_there(store, ref) for ref in task.run.tensors_of(task.index)):
        return "get the tensors from where the run was made: rota export RUN FILE --tensors, and verify FILE"
    if task.code is not None and kind_of(task.code).has_provenance:
        return "get the models from where the run was made: rota export RUN FILE --models, and verify FILE"
    return "take the folder modules/ along with the run file, or verify a file made by rota export"


def _is_there(store: TensorStore, ref: TensorRef) -> bool:
    try:
        store.open(ref)
    except TensorError:
        return False
    return True


def _explain(source: RunSource, report: RunReport, options: VerifyOptions) -> tuple[Divergence, ...]:
    """Explain in this process: an agent that keeps memory shows it only if one instance runs twice."""
    with Executors(source.folders()) as executors:
        return tuple(explain(source, report, executors, live_models=options.live_models))


def _digests(report: RunReport) -> list[tuple[str, int, bytes]]:
    return [(lane.lane, lane.retired, lane.digest) for lane in report.lanes]


def _of_round(progress: Callable[[int, int, int], None] | None, workers: int) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda turns, number: progress(workers, turns, number)
