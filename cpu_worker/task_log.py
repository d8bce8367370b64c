"""The log of one task: what its guest writes during the call and returns after it, within its bounds. PURE.

A log follows from the inputs and is the same in every process. It is never a reason to fail: the line that crosses
`log_bytes` is cut, everything behind is dropped, and dropping costs next to nothing, so that a guest that writes
millions of lines pays with its fuel and the host does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rota.common.limits import LOG_LINES_MAX

STDOUT: Final = 1
STDERR: Final = 2


class TaskLog:
    """Lines in the order in which they were completed."""

    __slots__ = ("_left", "_lines", "_open", "bytes_max")

    def __init__(self, bytes_max: int) -> None:
        """Keep at most `bytes_max` bytes of UTF-8 and LOG_LINES_MAX lines."""
        self.bytes_max = bytes_max
        self._left = bytes_max
        self._lines: list[str] = []
        self._open: dict[int, bytearray] = {}  # the unfinished line of each stream

    @property
    def is_full(self) -> bool:
        """Whether everything that comes now is dropped."""
        return self._left <= 0 or len(self._lines) >= LOG_LINES_MAX

    @property
    def is_used(self) -> bool:
        """Whether anything was written."""
        return bool(self._lines or self._open)

    def text(self, line: str) -> None:
        """Add one entry as it is; it may have several lines. `line` has no lone surrogates."""
        if self.is_full:
            return
        encoded = line.encode()
        if len(encoded) > self._left:
            line = encoded[: self._left].decode(errors="ignore")
        self._left -= len(encoded)
        self._lines.append(line)

    def write(self, stream: int, data: bytes | memoryview) -> None:
        """Add a piece of a stream, such as STDOUT; each of its lines becomes an entry when it ends.

        Bytes that are not UTF-8 become U+FFFD.
        """
        if self.is_full:
            return
        view = memoryview(data)
        start = 0
        while start < len(view) and not self.is_full:
            line = self._open.setdefault(stream, bytearray())
            room = max(0, self._left + 1 - len(line))  # one more than fits shows that the line is cut
            piece = bytes(view[start : start + room])
            newline = piece.find(b"\n")
            if newline < 0:
                line += piece
                if len(piece) < room:
                    return
                newline = len(piece)  # it crosses the bound, so its end does not matter
            else:
                line += piece[:newline]
            del self._open[stream]
            self.text(line.decode(errors="replace"))
            start += newline + 1

    def flush(self) -> None:
        """End the unfinished lines of all streams, in the order in which they began."""
        open_lines, self._open = self._open, {}
        for line in open_lines.values():
            self.text(line.decode(errors="replace"))

    def clear(self) -> None:
        """Forget everything: the task runs again."""
        self._left = self.bytes_max
        self._lines = []
        self._open = {}

    def end_with(self, lines: Sequence[str]) -> None:
        """Add the last lines, such as the stack of a trap, and make room for them by dropping the end of the log."""
        self.flush()
        lines = lines[:LOG_LINES_MAX]
        wanted = min(sum(len(line.encode()) for line in lines), self.bytes_max)
        while self._lines and (self._left < wanted or len(self._lines) + len(lines) > LOG_LINES_MAX):
            self._left = max(self._left, 0) + len(self._lines.pop().encode())
        for line in lines:
            self.text(line)

    def lines(self) -> tuple[str, ...]:
        """Return the log, with unfinished lines ended."""
        if self._open:
            self.flush()
        return tuple(self._lines) if self._lines else ()
