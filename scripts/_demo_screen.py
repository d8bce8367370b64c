"""The demo's output while it runs: one line per step with the seconds it took, and a bar. Standard library only.

On a terminal the line of a running step is overwritten; elsewhere it is printed at the end and at intervals.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

BAR_CHARS = 30
SILENT_SECONDS_MAX = 5.0  # between two lines of a running step, if not on a terminal
_NAME_CHARS = 11
_TEXT_CHARS = 86


class Step:
    """One step, shown while it runs and, with the seconds it took, at its end. Use it in a `with` block."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._live = sys.stdout.isatty()
        self._text = ""
        self._last_line = time.perf_counter()
        self._started = time.perf_counter()
        self.seconds = 0.0

    def __enter__(self) -> Step:
        self.show("...")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        if kind is None:
            self._write(f"{self._text:<{_TEXT_CHARS}} {self.seconds:7.2f} s", "\n")
        elif self._live:
            print(flush=True)

    def show(self, text: str) -> None:
        """Show the progress of the step, or at its end the result."""
        self._text = text
        if self._live:
            self._write(text, "")
        elif time.perf_counter() - self._last_line > SILENT_SECONDS_MAX:
            self.remark(text)

    def remark(self, text: str) -> None:
        """Print a line that stays, above the line of the step."""
        self._last_line = time.perf_counter()
        self._write(text, "\n")
        if self._live:
            self._write(self._text, "")

    def _write(self, text: str, end: str) -> None:
        start = "\r\033[K" if self._live else ""
        print(f"{start}{self._name:<{_NAME_CHARS}} {text}", end=end, flush=True)


def bar(done: int, total: int) -> str:
    """Return a progress bar for `done` of `total`."""
    full = BAR_CHARS * min(done, total) // max(total, 1)
    return f"[{'#' * full}{'.' * (BAR_CHARS - full)}]"


def size_text(size: int) -> str:
    """Return a number of bytes as readable text."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size} B"
