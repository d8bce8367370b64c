"""Records: encoding and decoding round-trip, other bytes are a `JournalError`, and a journal gives its state."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from chaos import Chaos, deploy_all
from core_kit import Broker, fold_journal
from hypothesis import given, settings
from hypothesis import strategies as st

from rota.broker import records
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.common.errors import JournalError
from rota.common.messages import TaskRun

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


def journal_of(seed: int) -> list[bytes]:
    """The journal of a random run, with records of nearly every kind."""
    broker = Broker()
    chaos = Chaos(broker, seed, 2, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.producer.open_lane("l", deploys_from="main", policy="recorded")
    chaos.lanes = ["main", "l"]
    chaos.run(150)
    chaos.settle()
    chaos.producer.drop_dead()
    broker.check()
    return broker.journal


JOURNAL = journal_of(4)


def test_the_sample_is_rich() -> None:
    """Goal: the properties below look at nearly every kind of record. Method: count kinds in the sample."""
    kinds = {type(records.decode(body)) for body in JOURNAL}
    assert {
        records.Epoch, records.Opened, records.Submitted, records.Deployed, records.Cancelled, records.Verdict,
        records.TimerFired, records.WindowSet, records.PauseSet, records.DeadDropped, records.Completion,
    } <= kinds  # fmt: skip


def test_encode_decode_encode() -> None:
    """Goal: decode(encode(r)) == r with the same types, and one encoding per record. Method: the sample run."""
    for body in JOURNAL:
        record = records.decode(body)
        assert records.encode(record) == body
        assert deep_types(records.decode(records.encode(record))) == deep_types(record)


def deep_types(value: Any) -> Any:
    return [type(value).__name__, [deep_types(item) for item in value]] if isinstance(value, tuple) else value


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_or_raise(body: bytes) -> None:
    """Goal: a body is a record or a JournalError. Method: random bytes."""
    decode_or_refuse(body)


@given(st.integers(0, 15), st.lists(PLAIN, max_size=8))
@settings(max_examples=120, deadline=None)
def test_any_fields_decode_or_raise(kind: int, fields: list[Any]) -> None:
    """Goal: the same for well-formed MessagePack under a record's tag. Method: random fields."""
    decode_or_refuse(msgpack.packb([kind, *fields]))


def decode_or_refuse(body: bytes) -> None:
    try:
        records.decode(body)
    except JournalError:
        return


@pytest.mark.parametrize(
    "body",
    [
        b"\x94\x01\xcd\x00\x01\x00\x90",  # a number with a longer encoding than needed
        b"\xdc\x00\x04\x01\x01\x00\x90",  # an array
        b"\x94\x01\x01\x00\x91\x92\xd9\x01a\xa1b",  # a text
        b"\x94\xcb?\xf0\x00\x00\x00\x00\x00\x00\x01\x00\x90",  # a float that equals its kind
    ],
)
def test_another_encoding_of_a_record_is_refused(body: bytes) -> None:
    """Goal: one value has one encoding, so equal runs have equal chains. Method: an Epoch written in other ways. Found
    by tests/fuzz.
    """
    assert records.encode(records.Epoch(1, 0, ())) == b"\x94\x01\x01\x00\x90"
    with pytest.raises(JournalError, match=r"not the canonical encoding|of no kind"):
        records.decode(body)


@pytest.mark.parametrize("depth", [900, 1_015, 1_020])
def test_a_body_of_any_depth_is_refused(depth: int) -> None:
    """Goal: no journal ends its reader with a RecursionError. Method: arrays inside each other, as a kind and as a lane
    that nobody opened: what is not found stands in a KeyError, which cannot be shown.
    """
    deep = b"\x91" * depth + b"\xc0"
    with pytest.raises(JournalError):
        records.decode(b"\x91" + deep)
    with pytest.raises(JournalError):
        fold_journal([*JOURNAL[:2], b"\x94\x0c" + deep + b"\x00\xc4\x00"])
    with pytest.raises(JournalError):
        fold_journal([*JOURNAL[:2], b"\x98\x03\xa4main\x00\x00\x93\xa0\x00\xc4\x00" + deep + b"\x90\xc0"])


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_record_is_applied_or_refused(data: st.DataObject) -> None:
    """Goal: folding never fails with anything but JournalError. Method: replace a field at any depth of a record of a
    real run by something random, and fold that journal.
    """
    place = data.draw(st.integers(0, min(len(JOURNAL), 60) - 1))
    fields = msgpack.unpackb(JOURNAL[place], strict_map_key=False)
    target = fields
    while True:
        index = data.draw(st.integers(0, len(target) - 1))
        if not isinstance(target[index], list) or not target[index] or data.draw(st.booleans()):
            target[index] = data.draw(PLAIN)
            break
        target = target[index]
    try:
        fold_journal([*JOURNAL[:place], msgpack.packb(fields), *JOURNAL[place + 1 : 80]])
    except JournalError:
        return


@pytest.mark.parametrize("place", range(1, 40))
def test_a_missing_or_doubled_record_is_noticed_or_harmless(place: int) -> None:
    """Goal: positions and numbers catch a journal with a hole, even with a valid chain. Method: leave out or repeat a
    record that stamps, completes or opens; a fold to the end must not come out the same.
    """
    record = records.decode(JOURNAL[place])
    if not isinstance(record, records.Submitted | records.Completion | records.Opened | records.Epoch):
        return
    whole = fold_journal(JOURNAL)
    for changed in ([*JOURNAL[:place], *JOURNAL[place + 1 :]], [*JOURNAL[: place + 1], *JOURNAL[place:]]):
        try:
            found = fold_journal(changed)
        except JournalError:
            continue
        assert found.lanes["main"].digest != whole.lanes["main"].digest or found.next_seq != whole.next_seq


def test_a_mark_that_is_not_met_is_refused() -> None:
    """Goal: a journal that folds to another digest than it says is not gone on with. Method: a wrong mark."""
    world = World()
    fold(world, map(records.decode, JOURNAL))
    lane = world.lanes["main"]
    fold(world, [records.Mark("main", lane.retired, lane.digest)])
    with pytest.raises(JournalError, match="comes to another digest"):
        fold(world, [records.Mark("main", lane.retired, bytes(32))])


def test_the_number_of_the_record_is_named() -> None:
    """Goal: who reads the error finds the place. Method: an epoch that does not follow."""
    with pytest.raises(JournalError, match="record 3: epoch 7 follows epoch 1") as caught:
        fold(World(), [*map(records.decode, JOURNAL[:2]), records.Epoch(7, 0, ())])
    assert caught.value.fields["number"] == 3


RUN = TaskRun.of("a", 0, (b"",), None)
ALICE = records.Origin("alice", 1, bytes([1]) * 32)


@pytest.mark.parametrize(
    ("origin", "runs", "retry_of", "told"),
    [
        (ALICE._replace(request=bytes(32)), (RUN,), None, "request 1 of producer 'alice' has no digest"),
        (ALICE, (RUN,), 3, "either runs or the dead task"),
        (ALICE, (), None, "either runs or the dead task"),
    ],
)
def test_records_that_contradict_themselves_are_refused(
    origin: records.Origin, runs: tuple[TaskRun, ...], retry_of: int | None, told: str
) -> None:
    """Goal: every reader refuses what no broker writes. Method: one such record each, beside the right ones."""
    right = records.Submitted("main", 0, 0, ALICE, 1, (RUN,), None)
    for taken in (right, right._replace(origin=records.NOBODY), right._replace(runs=(), retry_of=1)):
        assert records.decode(records.encode(taken)) == taken
    with pytest.raises(JournalError, match=told):
        records.decode(records.encode(right._replace(origin=origin, runs=runs, retry_of=retry_of)))
