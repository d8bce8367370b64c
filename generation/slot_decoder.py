"""Runs a decoder's graph over slots: prefill of one request, one token of all.

A prefill runs one slot alone and reads at least two tokens: with one, other kernels compute other bits. A decode always
has one of `sizes` rows, the first slots; the certificate says which sizes give a row the same bits (probes.py). Buffers
and bindings are kept, since binding anew costs more than a small model. Nothing here knows requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from rota.generation.cells import SlotCells
from rota.generation.decoder_interface import IDS, LOGITS, MASK, POSITIONS, DecoderInterface
from rota.host.float_environment import FloatEnvironment
from rota.tensors.arrays import Array, aligned_empty

PREFILL_TOKENS_MAX: Final = 128  # of one call, so that texts in progress do not wait for a long prompt
PREFILL_TOKENS_MIN: Final = 2

_INT64: Final = 7  # ONNX's number of the element type


class SlotDecoder:
    """A session with its slots. Use it in one thread."""

    def __init__(
        self, session: Any, interface: DecoderInterface, cells: SlotCells, sizes: Sequence[int], vocabulary: int
    ) -> None:
        """`sizes`: the rows that a decode may have, rising; the last is the number of slots."""
        assert [*sizes][-1:] == [cells.shape.slots], (sizes, cells.shape)
        self._session = session
        self._interface = interface
        self.cells = cells
        self.sizes = tuple(sizes)
        self.vocabulary = vocabulary
        self._floats = FloatEnvironment()
        slots, context = cells.shape.slots, cells.shape.context
        self._ids = _zeros((slots, 1))
        self._mask = _zeros((slots, context))
        self._positions = _zeros((slots, 1))
        self._logits = aligned_empty(interface.logits_dtype, (slots, 1, vocabulary))
        self._lone_mask = _zeros((1, context))
        self._decodes: dict[int, Any] = {}  # bindings by rows
        self._prefills: dict[int, Any] = {}  # bindings by slot

    @property
    def slots(self) -> int:
        return self.cells.shape.slots

    @property
    def context(self) -> int:
        return self.cells.shape.context

    def prefill(self, slot: int, start: int, tokens: Sequence[int], run_options: Any = None) -> Array:
        """Read tokens into the cells of a slot from `start` on; return the logits behind the last one, [vocabulary].

        It may be repeated, if it fails.
        """
        assert PREFILL_TOKENS_MIN <= len(tokens) <= PREFILL_TOKENS_MAX, len(tokens)
        end = start + len(tokens)
        assert end <= self.context, (end, self.context)
        binding = self._prefills.get(slot)
        if binding is None:
            binding = self._prefills[slot] = self._session.io_binding()
            _bind(binding, MASK, self._lone_mask)
            self._bind_cells(binding, slot, 1)
        ids = _aligned(tokens)
        _bind(binding, IDS, ids)
        self._lone_mask[0, :end] = 1
        self._lone_mask[0, end:] = 0
        if self._interface.has_positions:
            positions = _aligned(range(start, end))
            _bind(binding, POSITIONS, positions)
        binding.bind_output(LOGITS, "cpu")  # its shape depends on the number of tokens
        with self._floats:
            self._session.run_with_iobinding(binding, run_options)
        logits = binding.get_outputs()[-1].numpy()
        last: Array = logits[0, -1]
        return last

    def decode(
        self, inputs: Mapping[int, tuple[int, int]], filled: Mapping[int, int], run_options: Any = None
    ) -> Array:
        """Read one token in each of some slots; return the logits of all rows, [rows, vocabulary], until the next run.

        `inputs`: for each slot its token and the cells before it. `filled`: for each other slot that is in use, its
        cells; the cell behind them is overwritten, as the first one of an unused slot is. It may be repeated, if it
        fails.
        """
        rows = self.size_for(max(inputs) + 1)
        for slot in range(rows):
            token, start = inputs.get(slot) or (0, filled.get(slot, 0))
            self._ids[slot, 0] = token
            self._positions[slot, 0] = start
            self._mask[slot, : start + 1] = 1
            self._mask[slot, start + 1 :] = 0
        binding = self._decodes.get(rows)
        if binding is None:
            binding = self._decodes[rows] = self._decode_binding(rows)
        with self._floats:
            self._session.run_with_iobinding(binding, run_options)
        return self._logits[:rows, 0]

    def size_for(self, rows: int) -> int:
        """Return the smallest size of a decode that has so many rows."""
        return next(size for size in self.sizes if size >= rows)

    def _decode_binding(self, rows: int) -> Any:
        binding = self._session.io_binding()
        _bind(binding, IDS, self._ids[:rows])
        _bind(binding, MASK, self._mask[:rows])
        if self._interface.has_positions:
            _bind(binding, POSITIONS, self._positions[:rows])
        self._bind_cells(binding, 0, rows)
        logits = self._logits[:rows]
        binding.bind_output(LOGITS, "cpu", 0, self._interface.logits_element, list(logits.shape), logits.ctypes.data)
        return binding

    def _bind_cells(self, binding: Any, slot: int, rows: int) -> None:
        cells, shape = self.cells, self.cells.shape
        extents = [rows, shape.heads, shape.context, shape.size]
        where = (cells.device, cells.device_number, self._interface.element, extents)
        for part, name in enumerate(self._interface.parts):
            address = cells.address(part, slot)
            binding.bind_input(f"past_key_values.{name}", *where, address)
            binding.bind_output(f"present.{name}", *where, address)


def _zeros(extents: tuple[int, int]) -> Array:
    array = aligned_empty(np.dtype(np.int64), extents)
    array[:] = 0
    return array


def _aligned(values: Sequence[int] | range) -> Array:
    array = aligned_empty(np.dtype(np.int64), (1, len(values)))
    array[0] = values
    return array


def _bind(binding: Any, name: str, array: Array) -> None:
    binding.bind_input(name, "cpu", 0, _INT64, list(array.shape), array.ctypes.data)
