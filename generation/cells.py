"""The memory of a decoder's slots: keys and values, `context` cells for each of `slots` requests.

Past and present of the graph are bound to it, so a run writes its cells in place. The slots are the first axis of each
layer's keys and values, so the first few of them are one piece of memory too. All of it is zero at the start: a graph
that multiplies unused cells by zero would turn what is no number there into a wrong result.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from rota.tensors.arrays import Array

ALIGNMENT_BYTES: Final = 64


class CellsShape(NamedTuple):
    """`parts`: keys and values of all layers, two for each. `dtype` is numpy's or ml_dtypes'."""

    parts: int
    slots: int
    heads: int
    context: int
    size: int
    dtype: np.dtype[Any]

    @property
    def slot_bytes(self) -> int:
        """The bytes of one slot in one part."""
        return self.heads * self.context * self.size * self.dtype.itemsize

    @property
    def all_bytes(self) -> int:
        return self.parts * self.slots * self.slot_bytes


class SlotCells:
    """Cells in host memory. Pages that no slot has used take no memory."""

    device = "cpu"
    device_number = 0

    def __init__(self, shape: CellsShape) -> None:
        self.shape = shape
        extents = (shape.parts, shape.slots, shape.heads, shape.context, shape.size)
        room = np.zeros(math.prod(extents) * shape.dtype.itemsize + ALIGNMENT_BYTES, np.uint8)
        start = -room.ctypes.data % ALIGNMENT_BYTES
        self._array: Array = room[start : start + shape.all_bytes].view(shape.dtype).reshape(extents)
        self._address = self._array.ctypes.data

    def address(self, part: int, slot: int) -> int:
        """Return where the cells of a slot are in one part; those of the following slots come behind it."""
        return self._address + (part * self.shape.slots + slot) * self.shape.slot_bytes

    def copy(self, slot: int, start: int, end: int) -> Array:
        """Return a copy of cells `start` to `end` of a slot, [parts, heads, end - start, size]."""
        return self._array[:, slot, :, start:end].copy()

    def put(self, slot: int, start: int, cells: Array) -> None:
        """Write cells that `copy` returned."""
        self._array[:, slot, :, start : start + cells.shape[2]] = cells

    def scribble(self, end: int) -> None:
        """Fill the first `end` cells of all slots with large numbers, so that probes see who reads unused ones."""
        heads = (np.arange(end * self.shape.size) % 7 - 3).reshape(end, self.shape.size)
        self._array[:, :, :, :end] = (heads * 1000).astype(self.shape.dtype)

    def move(self, source: int, target: int, end: int) -> None:
        """Copy the first `end` cells of a slot to another one."""
        self._array[:, target, :, :end] = self._array[:, source, :, :end]
