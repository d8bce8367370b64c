"""Every decoder of bytes from outside, with mutated inputs, for a bounded time, with a new seed each time.

Longer: `python3 scripts/fuzz.py`. A failure names the smallest input found and the command that repeats the search; add
the input to the target's `finds`, and a named test for the fixed code.
"""

from __future__ import annotations

from pathlib import Path
from random import Random, SystemRandom

import pytest
from _fuzz_engine import Finding, Target, explore
from _fuzz_mutators import Pairs, Raw, mutate_json, mutate_msgpack, pack_tree
from fuzz_targets import TARGETS
from hypothesis import strategies as st


@pytest.mark.parametrize("name", TARGETS)
def test_no_bytes_can_hurt(name: str, tmp_path: Path) -> None:
    """Goal: outside bytes are taken or refused by a typed error, in bounded time and memory. Method: valid inputs, and
    each of them damaged in many ways; both answers must have come, or the damage says nothing.
    """
    number = SystemRandom().randrange(1 << 32)
    try:
        tally = explore(TARGETS[name], tmp_path / "scratch", number)
    except Finding as finding:
        pytest.fail(f"{finding}\n  repeat: python3 scripts/fuzz.py --target {name} --seed {number} --rounds 1")
    assert tally.taken
    assert tally.refused


def test_a_finding_is_found_shrunk_and_repeated(tmp_path: Path) -> None:
    """Goal: the engine can fail, and a seed repeats it. Method: a check that breaks at one byte, one that toils, one
    that takes 4 GiB.
    """

    def breaks(data: bytes) -> bool:
        if b"\x80" in data:
            raise KeyError(data)
        return True

    def toils(data: bytes) -> bool:
        return sum(range(10_000 * len(data))) >= 0

    def swells(data: bytes) -> bool:
        return bool(bytearray(4 << 30))

    found = []
    for check, told in ((breaks, "KeyError"), (breaks, "KeyError"), (toils, "processor time"), (swells, "MemoryError")):
        target = Target(
            "sample", st.binary(max_size=20), mutate_msgpack, lambda _, check=check: check, bases=300, cpu_seconds=0.002
        )
        with pytest.raises(Finding, match=told) as caught:
            explore(target, tmp_path / "scratch", 7)
        found.append(str(caught.value))
    assert found[0] == found[1]


def test_the_mutators_keep_to_their_seed() -> None:
    """Goal: repeatable, and able to write what no packer writes. Method: the same seed twice; odd trees."""
    for mutate, data in ((mutate_msgpack, pack_tree({"a": [1, b"x", None, "é"]})), (mutate_json, b'{"a": [1, "x"]}')):
        rows = [[mutate(Random(seed), data, data) for seed in range(200)] for _ in range(2)]
        assert rows[0] == rows[1]
        assert len(set(rows[0])) > 100
    assert pack_tree([1, Raw(b"\xc1"), Pairs([(1, 2), (1, 3)])]) == b"\x93\x01\xc1\x82\x01\x02\x01\x03"
    assert b"\xcd\x00\x01" in {pack_tree(1, Random(seed)) for seed in range(200)}
