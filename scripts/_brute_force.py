"""Finds by brute force what the bits of a row depend on, to check the certificates against.

It shares nothing with the probes but the session: rows of its own, each at every position of every batch size, each
time among other neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rota.gpu_worker.certificate import ShapeCertificate

Row = Mapping[str, Any]
"""An array for each input, without the first extent."""

MakeRow = Callable[[np.random.Generator, bool], Row]
"""Make a row; with True, one far from the others."""


@dataclass(slots=True)
class Truth:
    """What was seen: for each row and batch size, the bits at each position."""

    stable: bool = True
    coupled: bool = False  # other bits at the same position of the same size
    bits: dict[int, dict[int, set[bytes]]] = field(default_factory=dict)  # of size, of row

    def moves(self, size: int) -> bool:
        """Whether the position counts at this size."""
        return any(len(seen) > 1 for seen in self.bits[size].values())


def brute_force(
    session: Any, make_row: MakeRow, sizes: Sequence[int], *, rows: int, positions_max: int = 1 << 30, seed: int = 1
) -> Truth:
    """Run `rows` rows at up to `positions_max` positions of batches of each size, three neighbourhoods each."""
    random = np.random.default_rng(seed)
    truth = Truth()
    pool = [make_row(random, False) for _ in range(rows)]
    for size in sizes:
        truth.bits[size] = {}
        for at, row in enumerate(pool):
            seen = truth.bits[size][at] = set()
            positions = range(size) if size <= positions_max else sorted(random.permutation(size)[:positions_max])
            for position in positions:
                here = set()
                for trial in range(3):
                    batch = [make_row(random, trial > 0 and random.random() < trial / 3) for _ in range(size)]
                    batch[position] = row
                    inputs = {name: np.stack([one[name] for one in batch]) for name in row}
                    bits = _row_bits(session.run(None, inputs), position, size)
                    if trial == 0:
                        truth.stable &= bits == _row_bits(session.run(None, inputs), position, size)
                    here.add(bits)
                truth.coupled |= len(here) > 1
                seen |= here
    return truth


def disagreements(shape: ShapeCertificate, truth: Truth) -> list[str]:
    """Return what a certificate claims and brute force contradicts."""
    if shape.model_class == "D":
        return [] if not truth.stable else ["class D, but every run gave the same bits"]
    if not truth.stable:
        return [f"class {shape.model_class}, but runs differ"]
    moving = [size for size in truth.bits if truth.moves(size)]
    if shape.model_class == "C":
        return [] if truth.coupled else ["class C, but no neighbour changes anything"]
    if truth.coupled:
        return [f"class {shape.model_class}, but neighbours change bits"]
    if shape.model_class == "B":
        return [] if moving else ["class B, but no position changes anything"]
    sizes = [size for size in shape.sizes if size in truth.bits]
    rows = list(next(iter(truth.bits.values())))
    other = [row for row in rows if len(set().union(*[truth.bits[size][row] for size in sizes])) > 1]
    return [f"class A at {shape.sizes}, but {len(other)} of {len(rows)} rows differ"] if other else []


def normal_rows(extents: Mapping[str, Sequence[int]], dtypes: Mapping[str, Any]) -> MakeRow:
    """Return a maker of rows of normally distributed values."""

    def make(random: np.random.Generator, far: bool) -> Row:
        scale = 100 if far else 1
        return {
            name: (random.standard_normal(tuple(shape)) * scale).astype(dtypes[name]) for name, shape in extents.items()
        }

    return make


def _row_bits(outputs: Sequence[Any], position: int, size: int) -> bytes:
    assert all(output.shape[:1] == (size,) for output in outputs)
    return b"".join(output[position].tobytes() for output in outputs)
