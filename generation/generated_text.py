"""Bytes of tokens to text, with stop texts; says what of it may be shown. PURE.

A character may be split over tokens, so its bytes wait for the rest. Text that could still become a stop text waits
too. What was shown once therefore stays: the pieces joined are the text of the result.
"""

from __future__ import annotations

from collections.abc import Iterable


class GeneratedText:
    """The text of one request. `strip_start`: its first space is not part of it, as some tokenizers want it."""

    def __init__(self, stops: Iterable[str], *, strip_start: bool = False) -> None:
        self._stops = [_StopText(stop) for stop in stops]
        self._strip_start = strip_start
        self._bytes = b""  # of a character that is not complete
        self._text: list[str] = []  # up to `_length`
        self._length = 0
        self._taken = 0  # characters shown so far
        self._untaken = ""  # behind them
        self.stop: str | None = None

    @property
    def text(self) -> str:
        """The whole text so far, without the bytes of an unfinished character; without the stop text if one matched."""
        return "".join(self._text)[: self._length]

    def add(self, data: bytes) -> bool:
        """Add the bytes of a token; return whether a stop text has matched, which ends the text before it."""
        assert self.stop is None, "the text has ended"
        self._bytes += data
        end = _complete(self._bytes)
        text, self._bytes = self._bytes[:end].decode(errors="replace"), self._bytes[end:]
        return self._append(text)

    def end(self) -> bool:
        """End the text: show what is left of an unfinished character; return whether a stop text has matched."""
        if self.stop is None and self._bytes:
            text, self._bytes = self._bytes.decode(errors="replace"), b""
            return self._append(text)
        return self.stop is not None

    def take(self, *, is_last: bool = False, end: int | None = None) -> tuple[int, str]:
        """Return the next piece that may be shown, maybe empty, and the number of characters before it.

        Nothing from character `end` on is shown.
        """
        held = 0 if is_last or self.stop is not None else max((stop.matched for stop in self._stops), default=0)
        offset = self._taken
        last = self._length - held if end is None else min(self._length - held, end)
        size = max(0, last - offset)
        piece, self._untaken = self._untaken[:size], self._untaken[size:]
        self._taken += size
        return offset, piece

    def _append(self, text: str) -> bool:
        if text and self._strip_start:
            self._strip_start = False
            text = text.removeprefix(" ")
        found = self._match(text)
        if found is not None:
            self.stop, end = found
            text = text[: max(0, end)]
            self._length = self._length + end
        else:
            self._length += len(text)
        self._text.append(text)
        self._untaken += text
        return self.stop is not None

    def _match(self, text: str) -> tuple[str, int] | None:
        """Return the first stop text that is complete, of several the longest, and where in `text` it begins.

        That may be before `text`, so negative.
        """
        if not self._stops:
            return None
        for at, character in enumerate(text):
            complete = [stop.text for stop in self._stops if stop.advance(character)]
            if complete:
                longest = max(complete, key=len)
                return longest, at + 1 - len(longest)
        return None


class _StopText:
    """A stop text and how much of it the text so far ends with (the automaton of Knuth, Morris and Pratt)."""

    def __init__(self, text: str) -> None:
        assert text
        self.text = text
        self.matched = 0
        self._shorter = _borders(text)

    def advance(self, character: str) -> bool:
        """Read a character; return whether the stop text is complete, which is where the text ends."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._shorter[self.matched]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)


def _borders(text: str) -> list[int]:
    """Return for each length of a beginning of `text` the longest shorter one that it also ends with."""
    borders = [0, 0]
    for end in range(1, len(text)):
        border = borders[end]
        while border and text[border] != text[end]:
            border = borders[border]
        borders.append(border + (text[border] == text[end]))
    return borders


def _complete(data: bytes) -> int:
    """Return how many bytes come before a last character that may be unfinished."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:  # the first byte of a character of 2, 3 or 4 bytes
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if size > back else len(data)
        if byte < 0x80:
            return len(data)
    return len(data)
