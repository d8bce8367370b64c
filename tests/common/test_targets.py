"""Addresses: which are valid, and that the cache holds none that is too long."""

from __future__ import annotations

import sys

import pytest

from rota.common.limits import KEY_CHARS_MAX, NAME_CHARS_MAX
from rota.common.targets import is_name, is_target


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("n" * NAME_CHARS_MAX, True),
        ("n" * (NAME_CHARS_MAX + 1), False),
        ("n" * NAME_CHARS_MAX + "/" + "k" * KEY_CHARS_MAX, True),
        ("n/" + "k" * (KEY_CHARS_MAX + 1), False),
        ("model:" + "n" * NAME_CHARS_MAX, True),
    ],
)
def test_the_longest_addresses(text: str, good: bool) -> None:
    """Goal: bounds are exact. Method: each part as long as it may be, and longer by one."""
    assert is_target(text) is good


def test_what_is_too_long_is_not_kept() -> None:
    """Goal: long texts from outside do not pile up in a process. Method: count who holds them after the answer."""
    text = "x" * 100_000
    held = sys.getrefcount(text)
    assert not is_target(text)
    assert not is_name(text)
    assert sys.getrefcount(text) == held
