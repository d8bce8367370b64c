"""The log of a task: pieces of streams become lines, and nothing goes past its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rota.common.limits import LOG_LINES_MAX
from rota.cpu_worker.task_log import STDERR, STDOUT, TaskLog


def log_of(*pieces: tuple[int, bytes], bytes_max: int = 1 << 14) -> tuple[str, ...]:
    log = TaskLog(bytes_max)
    for stream, data in pieces:
        log.write(stream, data)
    return log.lines()


def test_streams_become_lines() -> None:
    """Goal: a line is an entry, in whichever pieces it came. Method: pieces of two streams, mixed, the last open."""
    pieces = [(STDOUT, b"one\ntw"), (STDERR, b"err"), (STDOUT, b"o\n\n"), (STDERR, b"or"), (STDOUT, b"three")]
    assert log_of(*pieces) == ("one", "two", "", "error", "three")


def test_streams_and_texts_keep_their_order() -> None:
    """Goal: entries are in the order of their ends. Method: an open line around a text, lines read twice."""
    log = TaskLog(100)
    log.write(STDOUT, b"open")
    log.text("a text\nof two lines")
    log.write(STDOUT, b" line\n")
    assert log.lines() == log.lines() == ("a text\nof two lines", "open line")


def test_bytes_that_are_no_text() -> None:
    """Goal: a stream may hold any bytes. Method: Latin-1, and a character whose bytes come in two pieces."""
    assert log_of((STDOUT, b"caf\xe9\n"), (STDOUT, b"\xe2\x82"), (STDOUT, b"\xac\n")) == ("caf\ufffd", "€")


@given(st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), st.binary(max_size=12)), max_size=40), st.integers(0, 60))
def test_bounds(pieces: list[tuple[int, bytes]], bytes_max: int) -> None:
    """Goal: no pieces get past the bytes, and nothing is lost that fits. Method: any pieces under any bound."""
    whole, kept = log_of(*pieces), log_of(*pieces, bytes_max=bytes_max)
    assert sum(len(line.encode()) for line in kept) <= bytes_max
    assert kept == whole or sum(len(line.encode()) for line in whole) > bytes_max or not bytes_max


def test_number_of_lines_is_bounded() -> None:
    """Goal: not more than LOG_LINES_MAX entries. Method: more, from a stream and as texts."""
    log = TaskLog(1 << 20)
    log.write(STDOUT, b"\n" * 10_000_000)
    for _ in range(10):
        log.text("late")
    assert log.lines() == ("",) * LOG_LINES_MAX


def test_unfinished_line_is_bounded() -> None:
    """Goal: a line that never ends is not held. Method: more than fits, in pieces; the next stream is dropped too."""
    log = TaskLog(10)
    for _ in range(100):
        log.write(STDERR, b"abcdefg")
    log.write(STDOUT, b"more\n")
    assert log.lines() == ("abcdefgabc",)


def test_last_lines_find_room() -> None:
    """Goal: the stack of a trap is kept however full the log is. Method: a full log by bytes, and one by lines."""
    log = TaskLog(10)
    log.write(STDOUT, b"12345\n678\nabcd")
    log.end_with(["in a", "in b"])
    assert log.lines() == ("in a", "in b")
    log = TaskLog(1 << 20)
    log.write(STDOUT, b"\n" * LOG_LINES_MAX + b"x")
    log.end_with(["in a", "in b"])
    assert log.lines() == ("",) * (LOG_LINES_MAX - 2) + ("in a", "in b")
    log = TaskLog(6)
    log.end_with(["in a", "in b"])
    assert log.lines() == ("in a", "in")
