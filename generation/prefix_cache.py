"""Keys and values of prompts that were prefilled, by their tokens, in blocks. PURE.

A block holds the cells of BLOCK_TOKENS tokens behind all blocks before it, so prompts share their common beginning.
The least recently used blocks go first, and a block always after those behind it. What may be used again is for the
caller to say: the cells of whole calls, and not the last two tokens of a prompt (text_generator.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from numpy.typing import NDArray

BLOCK_TOKENS: Final = 64  # those that one call of a prefill reads: see text_generator.py

Cells = NDArray[Any]
_Key = tuple[int, tuple[int, ...]]  # the number of the block before, and the tokens of this one

_NO_BLOCK: Final = 0


class PrefixCache:
    """Blocks of cells up to `bytes_max` in all. With 0 it keeps nothing."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._blocks: OrderedDict[_Key, tuple[int, Cells]] = OrderedDict()  # the least recently used first
        self._numbers = _NO_BLOCK
        self.held_bytes = 0

    def find(self, tokens: Sequence[int], tokens_max: int) -> list[Cells]:
        """Return the cells of the longest known beginning of `tokens`, up to `tokens_max`, block by block."""
        keys = self._known(tokens[: max(0, tokens_max)])
        self._touch(keys)
        return [self._blocks[key][1] for key in keys]

    def add(self, tokens: Sequence[int], cells_of: Callable[[int, int], Cells]) -> None:
        """Keep the cells of a prompt. `cells_of(start, end)` returns a copy of some of them."""
        if not self.bytes_max:
            return
        keys = self._known(tokens)
        for start in range(len(keys) * BLOCK_TOKENS, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            before = self._blocks[keys[-1]][0] if keys else _NO_BLOCK
            cells = cells_of(start, start + BLOCK_TOKENS)
            if (len(keys) + 1) * cells.nbytes > self.bytes_max:
                break  # else it would push out its own beginning
            key = (before, tuple(tokens[start : start + BLOCK_TOKENS]))
            self._numbers += 1
            self._blocks[key] = (self._numbers, cells)
            self.held_bytes += cells.nbytes
            keys.append(key)
        self._touch(keys)
        while self.held_bytes > self.bytes_max:
            _, (_, cells) = self._blocks.popitem(last=False)
            self.held_bytes -= cells.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self.held_bytes = 0

    def _known(self, tokens: Sequence[int]) -> list[_Key]:
        keys: list[_Key] = []
        before = _NO_BLOCK
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            key = (before, tuple(tokens[start : start + BLOCK_TOKENS]))
            found = self._blocks.get(key)
            if found is None:
                break
            before = found[0]
            keys.append(key)
        return keys

    def _touch(self, keys: Sequence[_Key]) -> None:
        for key in reversed(keys):  # so that a block stays longer than those behind it
            self._blocks.move_to_end(key)
