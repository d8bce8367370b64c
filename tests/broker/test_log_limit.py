"""The limit of log lines that peers can cause."""

from __future__ import annotations

from rota.broker.log_limit import LINES_MAX, WINDOW_MS, LogLimit


def test_the_first_lines_of_a_window_are_logged_and_the_others_counted() -> None:
    """Goal: a flood costs a few lines per second, and none is lost from the count. Method: two windows of a flood, a
    pause between them, and the clock as an argument.
    """
    limit = LogLimit()
    for begin_ms in (1_000, 90_000):
        assert [limit.allows(begin_ms + step) for step in range(100)] == [True] * LINES_MAX + [False] * (
            100 - LINES_MAX
        )
        assert limit.take_left_out(begin_ms + WINDOW_MS - 1) == 0
        assert not limit.allows(begin_ms + WINDOW_MS - 1)
        assert limit.take_left_out(begin_ms + WINDOW_MS) == 101 - LINES_MAX
        assert limit.take_left_out(begin_ms + 2 * WINDOW_MS) == 0


def test_the_last_window_is_told_before_it_is_over() -> None:
    """Goal: what was left out is in the log when the broker stops. Method: end a window early; then a quiet one."""
    limit = LogLimit()
    said = [limit.allows(7) for _ in range(LINES_MAX + 2)]
    assert (said.count(True), limit.take_left_out(8, last=True)) == (LINES_MAX, 2)
    assert limit.allows(9)
    assert limit.take_left_out(9, last=True) == 0
