"""Probes the rows of one shape set: rerun, alignment, position, neighbours, and a ladder of batch sizes.

The comparisons are of bits. A batch of copies of one row shows whether the position counts, since the neighbours are
the same for all. A batch of different rows is then compared with those copies at the same positions, which shows
whether the neighbours count. What is equal within one size is compared between sizes. No clock, no chance: a
certificate follows from the model and the conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rota.gpu_worker.certificate import Evidence, Extents, ShapeCertificate
from rota.gpu_worker.model_io import BoundCall, Port
from rota.gpu_worker.probe_rows import OUTLIERS, ZEROS
from rota.gpu_worker.providers import RUN_ERRORS, error_text
from rota.tensors.arrays import Array, aligned_empty
from rota.tensors.format import numpy_dtype

RUNS_ALONE: Final = 4  # of each row
PROBE_BATCH_BYTES_MAX: Final = 256 << 20  # of what the probes of one batch size hold

_COPIED_ROWS_MAX: Final = 128  # in the batches of copies of one size, but at least _COPIES_MIN batches
_COPIES_MIN: Final = 4
_ALL_BATCHES_MAX: Final = 16  # larger sizes are probed by fewer mixed batches
_MOVES_MAX: Final = 4  # sizes at which the position counts, after which no larger one is tried

Outcome = dict[str, Array]
"""The outputs of a run; each has a row for each of the batch."""

Say = Callable[[str], None]


class NoBatch(Exception):
    """An output does not have one row for each row of the inputs."""


class RowRunner:
    """Runs made-up rows through a session, in buffers like those of a worker."""

    def __init__(
        self, session: Any, inputs: Mapping[str, Port], outputs: Mapping[str, Port], rows: Mapping[str, Array],
        *, is_batched: bool,
    ) -> None:  # fmt: skip
        """`rows` holds for each input its ordinary rows and then the outliers. Without `is_batched`, each is a whole
        input, and only one can run at a time.
        """
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._rows = rows
        self._is_batched = is_batched
        self.has_rows = is_batched  # whether each output must have a row for each of the inputs'
        self._bound: dict[int, BoundCall] = {}
        self.ordinary = min(len(array) for array in rows.values()) - OUTLIERS if rows else 1

    @property
    def row_bytes(self) -> int:
        return sum(array[:1].nbytes for array in self._rows.values())

    def run(self, batch: Sequence[int]) -> Outcome:
        """Run a batch of rows and return a copy of the outputs. Raises the errors of the library, and `NoBatch`."""
        bound = self._bound.get(len(batch))
        if bound is None:
            self._bound.clear()  # the buffers of one size at a time
            bound = self._bound[len(batch)] = self._bind(len(batch), {})
        for name in self._inputs:
            bound.fill(name, self._rows[name][list(batch)].tobytes())
        return self._checked(bound.run(None), len(batch))

    def run_misaligned(self, batch: Sequence[int]) -> Outcome:
        """Do the same with inputs that start one element behind a multiple of 64 bytes."""
        places = {}
        for name, port in self._inputs.items():
            array = self._packed(name, batch)
            room = aligned_empty(numpy_dtype(port.dtype), (array.size + 1,))
            room[1:] = array.reshape(-1)
            places[name] = room[1:].reshape(array.shape)
        return self._checked(self._bind(len(batch), places).run(None), len(batch))

    def _packed(self, name: str, batch: Sequence[int]) -> Array:
        rows = self._rows[name][list(batch)]
        return rows if self._is_batched else rows[0]

    def _bind(self, size: int, places: Mapping[str, Array]) -> BoundCall:
        shapes: dict[Port, tuple[int, ...]] = {}
        for name, port in self._inputs.items():
            extents = self._rows[name].shape[1:]
            shapes[port] = (size, *extents) if self._is_batched else extents
        return BoundCall(self._session, shapes, dict.fromkeys(self._outputs.values()), places)

    def _checked(self, outputs: Mapping[str, Array], size: int) -> Outcome:
        if not self.has_rows:
            return {name: array[None].copy() for name, array in outputs.items()}
        for name, array in outputs.items():
            if not array.shape or array.shape[0] != size:
                raise NoBatch(f'output "{name}" has the shape {list(array.shape)} for {size} rows')
        return {name: array.copy() for name, array in outputs.items()}


@dataclass(slots=True)
class _Comparison:
    """The evidence of one probe while it grows."""

    probe: str
    size: int
    runs: int = 0
    rows: int = 0
    differing: int = 0
    largest: float = 0.0

    def compare(self, got: Outcome, want: Outcome) -> None:
        """Count the rows of an outcome whose bits differ from those of another one."""
        names = list(got)
        count = len(got[names[0]]) if names else 0
        differs = np.zeros(count, np.bool_)
        for name in names:
            if got[name].shape != want[name].shape:
                differs[:] = True
                self.largest = -1
            elif got[name].nbytes:
                differs |= (_bytes_of(got[name]) != _bytes_of(want[name])).any(axis=1)
        self.rows += count
        self.differing += int(differs.sum())
        if differs.any() and self.largest >= 0:
            self._measure(got, want)

    def evidence(self) -> Evidence:
        return Evidence(self.probe, self.size, self.runs, self.rows, self.differing, self.largest)

    def text(self) -> str:
        by = f", by up to {self.largest:.2g}" if self.largest >= 0 else ""
        return f"{self.differing} of {self.rows} rows differ at batch size {self.size}{by}"

    def _measure(self, got: Outcome, want: Outcome) -> None:
        for name in got:
            with np.errstate(all="ignore"):
                first, second = got[name].astype(np.float64), want[name].astype(np.float64)
                apart = np.abs(first - second)
            apart[first == second] = 0  # infinities too
            apart[np.isnan(first) & np.isnan(second)] = 0
            largest = float(apart.max(initial=0))
            self.largest = -1 if not np.isfinite(largest) else max(self.largest, largest)
            if self.largest < 0:
                return


def probe_alone(runner: RowRunner, extents: Extents, reason: str) -> ShapeCertificate:
    """Return the certificate of a shape set whose calls run alone: class C for `reason`, or D."""
    try:
        tallies, _ = _alone(runner)
    except RUN_ERRORS as error:
        return _unprobed(extents, error)
    evidence = tuple([tally.evidence() for tally in tallies])
    if tallies[0].differing:
        return ShapeCertificate(extents, "D", (), f"its bits change from run to run: {tallies[0].text()}", evidence)
    return ShapeCertificate(extents, "C", (), reason, evidence)


def probe_batches(runner: RowRunner, extents: Extents, ladder: Sequence[int], say: Say) -> ShapeCertificate:
    """Return the certificate of a shape set whose calls may share batches of the sizes in `ladder`."""
    try:
        tallies, rows = _alone(runner)
        solo = _stacked(rows)
    except RUN_ERRORS as error:
        return _unprobed(extents, error)
    except NoBatch as error:
        runner.has_rows = False
        return probe_alone(runner, extents, str(error))
    evidence = [tally.evidence() for tally in tallies]
    if tallies[0].differing:
        reason = f"its bits change from run to run: {tallies[0].text()}"
        return ShapeCertificate(extents, "D", (), reason, tuple(evidence))
    found = {1: solo}  # the bits of each row at each size whose positions agree
    moved: list[str] = []
    stopped = ""
    for size in _affordable(runner, ladder, solo):
        say(f"batches of {size}")
        try:
            trial = _probe_size(runner, size)
        except (*RUN_ERRORS, NoBatch) as error:
            stopped = f"it does not run {size} rows: {error_text(error)}"
            break
        evidence += [tally.evidence() for tally in trial.tallies]
        if trial.reruns.differing:
            reason = f"its bits change from run to run: {trial.reruns.text()}"
            return ShapeCertificate(extents, "D", (), reason, tuple(evidence))
        if trial.neighbours.differing:
            reason = f"its rows depend on their neighbours: {trial.neighbours.text()}"
            return ShapeCertificate(extents, "C", (), reason, tuple(evidence))
        if trial.positions.differing:
            moved.append(f"its rows depend on their position: {trial.positions.text()}")
            if len(moved) == _MOVES_MAX and len(found) == 1:
                break
        else:
            found[size] = trial.rows
    sizes, compared = _largest_group(found)
    evidence += compared
    if sizes:
        return ShapeCertificate(extents, "A", sizes, "", tuple(evidence))
    if moved:
        return ShapeCertificate(extents, "B", (), moved[0], tuple(evidence))
    return ShapeCertificate(extents, "C", (), stopped or "its rows are too large to probe batches", tuple(evidence))


def _unprobed(extents: Extents, error: Exception) -> ShapeCertificate:
    return ShapeCertificate(extents, "D", (), f"it cannot run the probes' inputs: {error_text(error)}")


def _alone(runner: RowRunner) -> tuple[list[_Comparison], list[Outcome]]:
    """Run each ordinary row alone, several times in changing order; return the evidence and the outputs of each."""
    rows = range(runner.ordinary)
    reruns, alignment = _Comparison("rerun", 1), _Comparison("alignment", 1)
    first = [runner.run([row]) for row in rows]
    for turn in range(1, RUNS_ALONE):
        for row in reversed(rows) if turn % 2 else rows:
            reruns.compare(runner.run([row]), first[row])
            reruns.runs += 1
    for row in rows:
        alignment.compare(runner.run_misaligned([row]), first[row])
        alignment.runs += 1
    return [reruns, alignment], first


@dataclass(slots=True)
class _SizeTrial:
    """What was found at one batch size. `rows`: the bits of each ordinary row, where the position does not count."""

    positions: _Comparison
    neighbours: _Comparison
    reruns: _Comparison
    rows: Outcome

    @property
    def tallies(self) -> tuple[_Comparison, ...]:
        return (self.positions, self.neighbours, self.reruns)


def _probe_size(runner: RowRunner, size: int) -> _SizeTrial:
    positions, neighbours, reruns = (_Comparison(probe, size) for probe in ("positions", "neighbours", "rerun"))
    copies = [runner.run([row] * size) for row in range(_copied(runner, size))]
    for outcome in copies:
        positions.compare(outcome, {name: np.broadcast_to(array[:1], array.shape) for name, array in outcome.items()})
    batches = _mixed(size, runner.ordinary)
    outcomes = [runner.run(batch) for batch in batches]
    forward, first = batches[0], outcomes[0]
    for batch, outcome in zip(batches[1:], outcomes[1:], strict=True):
        same = [place for place in range(size) if batch[place] == forward[place]]
        neighbours.compare(_at(outcome, same), _at(first, same))
    for place, row in enumerate(forward):
        if row < len(copies):
            neighbours.compare(_at(first, [place]), _at(copies[row], [place]))
    rows = [
        _at(copies[row], [0]) if row < len(copies) else _at(first, [forward.index(row)])
        for row in range(runner.ordinary)
    ]
    for batch, outcome in zip(batches, outcomes, strict=True):
        places = [place for place, row in enumerate(batch) if row < runner.ordinary]
        positions.compare(_at(outcome, places), _joined([rows[batch[place]] for place in places]))
    reruns.compare(runner.run(forward), first)
    positions.runs, neighbours.runs, reruns.runs = len(copies) + len(batches), len(batches), 1
    return _SizeTrial(positions, neighbours, reruns, _joined(rows))


def _copied(runner: RowRunner, size: int) -> int:
    """Return how many rows are probed by a batch of copies; all of them unless batches are large."""
    return min(runner.ordinary, max(_COPIES_MIN, _COPIED_ROWS_MAX // size))


def _mixed(size: int, count: int) -> list[list[int]]:
    """Return batches of `size` rows: ordinary ones in two orders, among outliers, and with zeros behind them.

    The first has ordinary rows only. The others but the second have some of them at the same places.
    """
    far, zeros = count + 1, count + ZEROS
    forward = [place % count for place in range(size)]
    outliers = [far + place % (OUTLIERS - 1) for place in range(size)]
    even, odd = forward.copy(), forward.copy()
    even[1::2], odd[0::2] = outliers[1::2], outliers[0::2]
    batches = [forward, [count - 1 - row for row in forward], even, odd]
    if size <= _ALL_BATCHES_MAX:
        half = size // 2
        batches += [[*forward[:half], *[zeros] * (size - half)], [0, *outliers[1:]]]
    return batches


def _affordable(runner: RowRunner, ladder: Sequence[int], solo: Outcome) -> list[int]:
    """Return the sizes whose probes fit into memory."""
    row_bytes = sum(array[:1].nbytes for array in solo.values())

    def held(size: int) -> int:
        return size * (row_bytes * (_copied(runner, size) + 8) + 4 * runner.row_bytes)

    return [size for size in ladder if held(size) <= PROBE_BATCH_BYTES_MAX]


def _largest_group(found: Mapping[int, Outcome]) -> tuple[tuple[int, ...], list[Evidence]]:
    """Return the sizes that give every row the same bits, as many as there are, and how the others differ from them.

    Empty if there is none of at least two rows. Of equally many, those with the smaller sizes.
    """
    groups: list[list[int]] = []
    for size in found:
        home = next((group for group in groups if not _compared(found, size, group[0]).differing), None)
        if home is None:
            groups.append([size])
        else:
            home.append(size)
    batched = [group for group in groups if group[-1] > 1]
    if not batched:
        return (), []
    best = max(batched, key=len)  # the first of equal ones
    return tuple(best), [_compared(found, size, best[0]).evidence() for size in found if size != best[0]]


def _compared(found: Mapping[int, Outcome], size: int, reference: int) -> _Comparison:
    tally = _Comparison(f"as batch size {reference}", size)
    tally.compare(found[size], found[reference])
    return tally


def _at(outcome: Outcome, places: list[int]) -> Outcome:
    return {name: array[places] for name, array in outcome.items()}


def _stacked(rows: Sequence[Outcome]) -> Outcome:
    """Join the outputs of single rows. Raises `NoBatch` if their shapes depend on the values."""
    for name, array in rows[0].items():
        for other in rows[1:]:
            if other[name].shape != array.shape:
                shapes = f"{list(array.shape)} and {list(other[name].shape)}"
                raise NoBatch(f'the shape of output "{name}" depends on the values: {shapes}')
    return _joined(rows)


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    return {name: np.concatenate([outcome[name] for outcome in outcomes]) for name in outcomes[0]}


def _bytes_of(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
