"""Limits the lines that peers can cause in the log. PURE.

A peer can send bad messages faster than any disk takes lines about them. The first few of a second are logged, then how
many more there were.
"""

from __future__ import annotations

from typing import Final

LINES_MAX: Final = 5  # per window
WINDOW_MS: Final = 1_000


class LogLimit:
    """Counts the lines of the current window. It begins with the first line after the last window."""

    def __init__(self) -> None:
        self._begun_ms: int | None = None
        self._lines = 0
        self._left_out = 0

    def allows(self, mono_ms: int) -> bool:
        """Count a line; return whether to log it."""
        if self._begun_ms is None:
            self._begun_ms = mono_ms
        self._lines += 1
        if self._lines <= LINES_MAX:
            return True
        self._left_out += 1
        return False

    def take_left_out(self, mono_ms: int, *, last: bool = False) -> int:
        """End the window if it is over, or with `last`; return how many lines were left out in it, 0 if it goes on."""
        if self._begun_ms is None or (mono_ms - self._begun_ms < WINDOW_MS and not last):
            return 0
        left_out = self._left_out
        self._begun_ms, self._lines, self._left_out = None, 0, 0
        return left_out
