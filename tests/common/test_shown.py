"""common/shown.py: wrong values in messages."""

from __future__ import annotations

from typing import Any

import pytest

from rota.common.shown import shown


def nested(depth: int) -> Any:
    value: Any = None
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ([1, "a"], "[1, 'a']"),
        ((), "()"),
        ([[1]], "a list of 1"),
        ({"a": 1}, "a map of 1"),
        ([0] * 41, "a list of 41"),
        ("x" * 100, "'" + "x" * 59 + "..."),
        (nested(50_000), "a list of 1"),
        (1 << 200_000, "an integer of 200001 bits"),
        ([1 << 200_000], "a list of 1"),
    ],
    ids=lambda _: "",
)
def test_every_value_is_shown_in_a_few_words(value: Any, text: str) -> None:
    """Goal: no length or depth can hurt. Method: one value of each sort, some that `repr` cannot show."""
    assert shown(value) == text
