"""Cycles among addresses that wait for each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rota.broker.cycles import cycles

_NAMES = [f"a{n}" for n in range(7)]


def reached(waits: dict[str, list[str]], start: str) -> dict[str, None]:
    """Everything that an address waits for, directly or not."""
    found: dict[str, None] = {}
    left = list(waits.get(start, ()))
    while left:
        one = left.pop()
        if one not in found:
            found[one] = None
            left += waits.get(one, ())
    return found


@given(st.dictionaries(st.sampled_from(_NAMES), st.lists(st.sampled_from(_NAMES), max_size=3, unique=True)))
def test_each_group_that_waits_for_itself_is_named_once(waits: dict[str, list[str]]) -> None:
    """Goal: no deadlock is missed and none invented. Method: any waits; compare with what is reached from where."""
    found = cycles(waits)
    on_one = [name for name in waits if name in reached(waits, name)]
    groups = {frozenset(one for one in on_one if one in reached(waits, name) and name in reached(waits, one))
              for name in on_one}  # fmt: skip
    assert len(found) == len(groups)
    for cycle in found:
        assert len(set(cycle)) == len(cycle)
        assert any(set(cycle) <= group for group in groups)
        assert all(after in waits[before] for before, after in zip(cycle, [*cycle[1:], cycle[0]], strict=True))
        assert cycle[0] == next(name for name in waits if any(name in group for group in groups if set(cycle) <= group))
    assert found == sorted(found, key=lambda cycle: list(waits).index(cycle[0]))


def test_the_cycle_shown_is_a_shortest_one() -> None:
    """Goal: a person reads few names. Method: a long way round and a short one."""
    waits = {"a": ["b", "d"], "b": ["c"], "c": ["a"], "d": ["a"], "e": ["e", "a"]}
    assert cycles(waits) == [["a", "d"], ["e"]]


def test_a_long_chain_is_no_problem() -> None:
    """Goal: no recursion. Method: a chain and a ring of 20,000."""
    chain = {str(n): [str(n + 1)] for n in range(20_000)}
    assert cycles(chain) == []
    assert cycles({**chain, "20000": ["0"]}) == [[str(n) for n in range(20_001)]]
