"""Bytes to text: characters over token borders, stop texts, and that what is shown once stays."""

from __future__ import annotations

import random

import pytest

from rota.generation.generated_text import GeneratedText


def spoken(text: GeneratedText, parts: list[bytes]) -> tuple[str, list[str]]:
    """Give a text its bytes until it ends; return the text and the pieces, whose offsets are checked."""
    pieces: list[str] = []

    def take(*, is_last: bool) -> None:
        offset, piece = text.take(is_last=is_last)
        assert offset == len("".join(pieces))
        pieces.append(piece)

    for part in parts:
        if text.add(part):
            break
        take(is_last=False)
    text.end()
    take(is_last=True)
    return text.text, pieces


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    """Cut bytes into parts of 0 to 5."""
    parts = []
    while data:
        size = chance.randrange(6)
        parts.append(data[:size])
        data = data[size:]
    return parts


def naively_stopped(text: str, stops: list[str]) -> tuple[str, str | None]:
    """Return the text before the stop that ends first, of several the longest."""
    for end in range(1, len(text) + 1):
        matched = [stop for stop in stops if text[:end].endswith(stop)]
        if matched:
            longest = max(matched, key=len)
            return text[: end - len(longest)], longest
    return text, None


def test_any_bytes_in_any_parts_are_the_text_of_all_bytes() -> None:
    """Goal: the cut into tokens does not show. Method: valid and broken UTF-8, cut at random, with stop texts."""
    chance = random.Random(8)
    alphabet = ["a", "b", "ab", "é", "€", "😀", "\ufffd", " "]
    for _ in range(3000):
        data = "".join(chance.choices(alphabet, k=chance.randrange(14))).encode()
        for _ in range(chance.randrange(3)):
            at = chance.randrange(len(data) + 1)
            data = data[:at] + bytes([chance.randrange(256)]) + data[at:]
        stops = ["".join(chance.choices(alphabet, k=chance.randrange(1, 4))) for _ in range(chance.randrange(4))]
        text = GeneratedText(stops)
        whole, pieces = spoken(text, cut(data, chance))
        assert (whole, text.stop) == naively_stopped(data.decode(errors="replace"), stops), (data, stops)
        assert "".join(pieces) == whole


def test_a_stop_text_inside_a_character_is_seen_when_the_character_is_whole() -> None:
    """Goal: a token border inside a character hides no stop. Method: a two-byte character, byte by byte."""
    text = GeneratedText(["é"])
    assert not text.add(b"x")
    assert not text.add("é".encode()[:1])
    assert text.take() == (0, "x")
    assert text.add("é".encode()[1:])
    assert (text.text, text.stop) == ("x", "é")


def test_no_part_of_a_stop_text_is_shown() -> None:
    """Goal: what may still become a stop text waits. Method: its characters one by one, then another one."""
    text = GeneratedText(["</end>"])
    shown = []
    for character in "a</en</end":
        text.add(character.encode())
        shown.append(text.take()[1])
    assert shown == ["a", "", "", "", "", "</en", "", "", "", ""]
    assert text.take(is_last=True) == (5, "</end")


def test_nothing_behind_the_given_end_is_shown() -> None:
    """Goal: tool calls are not shown as text. Method: an end inside what could be shown."""
    text = GeneratedText([])
    text.add(b"hello <tool")
    assert text.take(end=6) == (0, "hello ")
    assert text.take(end=6) == (6, "")
    assert text.take(is_last=True) == (6, "<tool")


@pytest.mark.parametrize("parts", [[b" a", b" b"], [b"", b" ", b"a b"]])
def test_a_first_space_goes_where_the_tokenizer_says_so(parts: list[bytes]) -> None:
    """Goal: SentencePiece's first space is no text. Method: with and without."""
    assert spoken(GeneratedText([], strip_start=True), parts)[0] == "a b"
    assert spoken(GeneratedText([]), parts)[0] == " a b"
