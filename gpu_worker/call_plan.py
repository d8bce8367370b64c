"""How calls of one signature run: alone, or in batches of which sizes. PURE.

A plan is a function of the certificate and the signature, so whether a call may share a batch, and the sizes to which
it is padded, never depend on load or history (decision 0020). Only `rows_max` may become less, which changes no bits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rota.common.model_call import Call

Shape = tuple[Any, ...]
"""What calls must share to ride in one batch: the wanted outputs, and each input's name, dtype and extents."""


class CallPlan(NamedTuple):
    """How calls of one signature run.

    `sizes` are what they may be padded to, ascending; empty if each runs alone at its own shape. `rows_max` is how many
    rows share a batch. `misfit` says why they cannot run at all.
    """

    misfit: str
    call: Call  # without data
    shape: Shape
    rows: int
    sizes: tuple[int, ...]
    rows_max: int

    def size_for(self, rows: int) -> int:
        """Return the batch for so many rows; 0 if the call runs at its own shape."""
        return next((size for size in self.sizes if size >= rows), 0)
