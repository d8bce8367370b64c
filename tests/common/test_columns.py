"""columns.py and its users: sequences that keep their content, and columns that refuse inconsistent content."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import OUTCOME, REF, some

from rota.common import wire
from rota.common.assignments import Segment
from rota.common.columns import Addresses, Blobs, Values, picked, sparse, value_at
from rota.common.messages import ResultItem, ResultRows, Results, TaskRun
from rota.common.outcomes import Outcomes
from rota.common.work import Done, Failed, Provenance

BLOBS = st.lists(st.binary(max_size=9), max_size=30) | st.lists(st.binary(min_size=3, max_size=3), max_size=30)
EMPTY = Values.of([None])
CPU = Provenance("bitwise", "cpu", bytes(32), "A", "no driver")
CUDA = Provenance("recorded", "cuda", bytes(32))
FAILURE = ((0, ("trap", "m")),)


@given(BLOBS, st.data())
def test_blobs_are_their_strings(items: list[bytes], data: st.DataObject) -> None:
    """Goal: a column is the sequence it was made of, whichever way it is read, and so is a part of it. Method: strings
    of one length and of many.
    """
    blobs = Blobs.of(items)
    assert list(blobs) == [blobs[index] for index in range(len(blobs))] == items
    if items:
        indexes = sorted(data.draw(st.sets(st.integers(0, len(items) - 1), min_size=1)))
        assert list(blobs.pick(indexes)) == [items[index] for index in indexes]


@given(st.lists(st.none() | st.binary(max_size=9), max_size=30) | st.lists(st.none() | st.just(b"abc"), max_size=30))
def test_values_tell_nothing_from_empty(items: list[bytes | None]) -> None:
    """Goal: None and the empty string stay apart. Method: both, at any place."""
    assert list(Values.of(items)) == items


@given(st.lists(st.sampled_from(("a/1", "a/2", "b")), max_size=30))
def test_addresses_are_their_strings(items: list[str]) -> None:
    """Goal: the table holds each address once. Method: few addresses, many tasks."""
    addresses = Addresses.of(items)
    assert list(addresses) == [addresses[index] for index in range(len(addresses))] == items
    assert list(addresses.table) == list(dict.fromkeys(items))


@given(st.lists(some(REF), max_size=9), st.data())
def test_sparse_values_are_found(values: list[Any], data: st.DataObject) -> None:
    """Goal: what few tasks have is found by index, also in a part of the row. Method: against the list itself."""
    pairs = sparse(values)
    assert [value_at(pairs, index) for index in range(len(values))] == values
    indexes = sorted(data.draw(st.sets(st.integers(0, max(len(values) - 1, 0)), max_size=len(values))))
    assert [value_at(picked(pairs, indexes), place) for place in range(len(indexes))] == [values[at] for at in indexes]


@given(st.lists(st.none() | st.sampled_from((CPU, CUDA)), min_size=1, max_size=12), st.booleans())
def test_provenances_are_those_of_their_results(sources: list[Provenance | None], one_fails: bool) -> None:
    """Goal: each result keeps its own provenance, which is sent once for all that follow each other. Method: two of
    them and none, in any order, read back from their bytes, also beside a failure.
    """
    items = [
        ResultItem(seq, "l", seq, 1, True, b"r", (), "", "", (), source) for seq, source in enumerate(sources, start=1)
    ]
    if one_fails:
        items[-1] = items[-1]._replace(ok=False, result=None, kind="trap", message="m")
    results = wire.decode(wire.encode(Results.of(items)), wire.TO_PRODUCERS)
    assert isinstance(results, Results)
    assert list(results.items) == items
    assert len(results.batches[0].provenances) <= len(sources)


def test_provenances_of_other_results_are_refused() -> None:
    """Goal: a peer cannot have a reader make provenances for results that are not there."""
    rows = ResultRows.of([ResultItem(1, "l", 1, 1, True, b"r", (), "", "", (), CPU)])
    assert rows.provenances == ((1, CPU),)
    for wrong in (((2, CPU),), ((1, CPU), (1 << 40, None))):
        with pytest.raises(ValueError, match="provenances for 1 results"):
            rows._replace(provenances=wrong)


@given(some(OUTCOME, 9))
def test_outcomes_are_their_rows(rows: tuple[Any, ...]) -> None:
    """Goal: columns hold all of an outcome. Method: outcomes of every kind, read back from their bytes."""
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(Outcomes.of(rows)), type=Outcomes)
    assert tuple(read) == rows
    assert [type(one) for one in read] == [type(one) for one in rows]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Blobs(b"abc", (1, 1)), "the lengths come to 2 bytes, the blob has 3"),
        (lambda: Values(b"abc", (1, None)), "the lengths come to 1 bytes"),
        (lambda: Addresses(("a",), (0, 1)), "place 1 in a table of 1"),
        (lambda: TaskRun.of("a", 0, Blobs.of(()), ()), "at least one payload"),
        (lambda: TaskRun.of(("a",), 0, (b"", b"")), "1 targets for 2 payloads"),
        (lambda: Segment("tell", None, 5, None, 64, 7, (3, 4), Blobs.of((b"x",)), ()), "2 turns and 1 payloads"),
        (lambda: Segment("tell", None, 5, None, 64, 7, (3,), Blobs.of((b"x",)), ((0, ()),)), "empty"),
        (lambda: Outcomes(EMPTY, EMPTY, (1, 2), (), (), (), (), (0,), ()), "1 results, 1 digests, 2 of fuel"),
        (lambda: Outcomes(EMPTY, Values.of([b"short"]), (1,), (), (), (), (), (0,), ()), "state digests of 32 bytes"),
        (lambda: Outcomes(EMPTY, EMPTY, (1,), (), (), ((1, ("line",)),), (), (0,), ()), "logs at index 1"),
        (lambda: Outcomes(Values.of([b""]), EMPTY, (1,), FAILURE, (), (), (), (0,), ()), "failure and a success"),
        (lambda: Outcomes(Values.of([b""]), EMPTY, (1,), (), (), (), (), (0,), ((0, ""),)), "postponed and has"),
        (lambda: Outcomes(EMPTY, EMPTY, (1,), FAILURE, (), (), (), (0,), ((0, "a"),)), "failure and a success"),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_cannot_be_made(make: Any, told: str) -> None:
    """Goal: no code behind the decoder need look whether columns fit. Method: one of each rule."""
    with pytest.raises(ValueError, match=told):
        make()


def test_a_mixed_row_keeps_its_order() -> None:
    """Goal: failures stand where they were. Method: a failure between two successes, one of them without a result."""
    rows = (Done(b"a", None, (), (), 1, ()), Failed("trap", "no", ("line",), 2), Done(None, bytes(32), (), (), 3, ()))
    assert tuple(Outcomes.of(rows)) == Outcomes.of(Outcomes.of(rows)).rows == rows
