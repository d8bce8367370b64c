"""The wire: every message round-trips, all other bytes are a `ProtocolError`."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_strategies import FLAG, MAP, MESSAGES, PLAIN

from rota.common import limits, messages, wire
from rota.common.errors import ProtocolError, VersionMismatch
from rota.common.work import FoldResult


def test_every_message_has_a_strategy() -> None:
    """Goal: a new message cannot escape the properties below. Method: compare with the table of the wire."""
    assert set(MESSAGES) == {row.cls for row in wire.SCHEMA.values()}
    conversations = wire.FROM_PRODUCERS | wire.TO_PRODUCERS | wire.FROM_WORKERS | wire.TO_WORKERS | wire.QUERIES
    assert set(MESSAGES) == conversations | {messages.Event}


@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_is_sent_is_received(cls: type, data: st.DataObject) -> None:
    """Goal: decode(encode(m)) == m, made of tuples and of the same classes. Method: messages of every class."""
    message = data.draw(MESSAGES[cls])
    frame = wire.encode(message)
    received = wire.decode(frame, frozenset({cls}))
    assert received == message
    assert repr(received) == repr(message)
    assert wire.encode(received) == frame
    with pytest.raises(ProtocolError, match="does not belong"):
        wire.decode(frame, frozenset())


@given(st.binary(max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_bytes_decode_or_raise(frame: bytes) -> None:
    """Goal: garbage is a ProtocolError, never another one. Method: random bytes."""
    decode_or_refuse(frame)


@given(tag=st.sampled_from(list(wire.SCHEMA)), fields=st.lists(PLAIN | MAP, max_size=9))
@settings(max_examples=300, deadline=None)
def test_any_fields_decode_or_raise(tag: int, fields: list[Any]) -> None:
    """Goal: well-formed MessagePack of the wrong kind is refused the same way. Method: random fields under each tag."""
    decode_or_refuse(msgpack.packb([limits.PROTOCOL_VERSION, tag, *fields]))


@given(message=st.one_of(*MESSAGES.values()), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_damaged_message_decodes_or_raises(message: Any, data: st.DataObject) -> None:
    """Goal: nearly right is refused or read, at any depth. Method: replace one value somewhere in a real message, and
    cut its frame.
    """
    frame = wire.encode(message)
    decode_or_refuse(frame[: data.draw(st.integers(0, len(frame)))])
    target = whole = msgpack.unpackb(frame, strict_map_key=False)
    while True:
        index = data.draw(st.integers(0, len(target) - 1))
        if not isinstance(target[index], list) or not target[index] or data.draw(FLAG):
            target[index] = data.draw(PLAIN | MAP)
            break
        target = target[index]
    decode_or_refuse(msgpack.packb(whole))


def decode_or_refuse(frame: bytes) -> None:
    """Decode, and check that the message encodes to the same bytes."""
    number = wire.request_number(frame)
    assert 0 <= number <= limits.NOW_MS_MAX
    try:
        message = wire.decode(frame)
    except ProtocolError:
        return
    assert wire.decode(wire.encode(message)) == message


def packed(*fields: Any, version: int = limits.PROTOCOL_VERSION) -> bytes:
    return msgpack.packb([version, *fields])


def test_another_version_is_named() -> None:
    """Goal: who speaks another version learns both, and its request number is still known. Method: version 1."""
    frame = packed(wire.Tag.HELLO, 7, "alice", version=1)
    with pytest.raises(VersionMismatch) as caught:
        wire.decode(frame)
    assert (caught.value.fields["theirs"], caught.value.fields["ours"]) == (1, limits.PROTOCOL_VERSION)
    assert wire.request_number(frame) == 7


def submit(run: list[Any]) -> bytes:
    return packed(wire.Tag.SUBMIT, 1, "l", [run], True, None, None, "tell", 0)


NESTED = 100_000
ZERO = bytes(32)
NO_OUTCOMES = [[b"", []], [b"", []], [], [], [], [], [], [], []]
REF = [ZERO, "float32", []]
END = [1, None, None, "", None]
FAILED_TWICE = [[b"x", [1]], [b"", [None]], [0], [[0, ["trap", "m"]]], [], [], [], [0], []]  # a failure with a result


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        (b"", "not one MessagePack value"),
        (b"\x91" * NESTED, "not one MessagePack value"),
        (packed(wire.Tag.HELLO, 1, "a") + b"\0", "not one MessagePack value"),
        (msgpack.packb({"a": 1}), "not an array"),
        (msgpack.packb([1]), "not an array"),
        (msgpack.packb([True, 1]), "not an array"),
        (packed(99), "tag 99 names no message"),
        (packed(wire.Tag.HELLO, 1), "Hello has 2 fields, got 1"),
        (packed(wire.Tag.HELLO, 1, b"alice"), "Hello: field producer"),
        (packed(wire.Tag.HELLO, -1, "a"), "Hello: field number"),
        (packed(wire.Tag.HELLO, True, "a"), "Hello: field number"),
        (packed(wire.Tag.HELLO, 1, "a" * 65), "Hello: field producer"),
        (packed(wire.Tag.SET_PAUSED, 1, "a lane", True), "SetPaused: field lane"),
        (packed(wire.Tag.SET_PAUSED, 1, "lane", 1), "SetPaused: field paused"),
        (packed(wire.Tag.SET_WINDOW, 1, "lane", 0), "SetWindow: field window"),
        (packed(wire.Tag.HELLO, 1, "a", 0), "Hello has 2 fields, got 3"),
        (submit(["a", 0, [b"", []], []]), "field runs[0]: a run holds at least one payload"),
        (submit([[["a"], [0]], 0, [b"", [0, 0]], []]), "1 targets for 2 payloads"),
        (submit([[["a"], [1]], 0, [b"", [0]], []]), "field runs[0].targets: place 1 in a table of 1"),
        (submit(["a", 0, [b"", [0]], [[0, []]]]), "tensors at index 0 are empty"),
        (submit(["a", 0, [b"", [0, 0]], [[1, [REF]], [0, [REF]]]]), "tensors at index 0 after 1"),
        (submit(["a", 0, [b"", [0]], [[1, [REF]]]]), "tensors at index 1 after -1, in a row of 1"),
        (submit(["a", 8, [b"", [0]], []]), "Submit: field runs[0].priority: wants an integer -8..7"),
        (submit(["a", 0, [b"", [0]], [], 1]), "Submit: field runs[0]: wants an array of 4 elements, got 5"),
        (submit(["a b", 0, [b"", [0]], []]), "field runs[0].targets: wants a target"),
        (submit([[["a b"], [0]], 0, [b"", [0]], []]), "field runs[0].targets.table[0]: wants a target"),
        (submit(["a", 0, [b"x", [2]], []]), "the lengths come to 2 bytes, the blob has 1"),
        (submit(["a", 0, [b"x" * ((1 << 20) + 1), [(1 << 20) + 1]], []]), "payloads.lengths[0]: wants payloads of at"),
        (submit(["a", 0, [b"x" * ((1 << 20) + 1), [(1 << 20) + 1]], []]), "send more as tensors"),
        (packed(wire.Tag.DEPLOY, 1, "l", "a", [ZERO, "agent", True, []], True), "field code: wants an array"),
        (packed(wire.Tag.COMPLETED, "w", 1, [FAILED_TWICE, [END]], 1), "is a failure and a success"),
        (packed(wire.Tag.COMPLETED, "w", 1, [NO_OUTCOMES, [END]], 1), "the folds have 1 outcomes, there are 0"),
        (packed(wire.Tag.QUERY, 1, "status", {"a": [1]}), "Query: field arguments"),
        (packed(wire.Tag.ANSWER, 1, msgpack.ExtType(5, b""), 0, 0), "field value: wants a value without extension"),
        (packed(wire.Tag.ANSWER, 1, [msgpack.Timestamp(1)], 0, 0), "field value: wants a value without extension"),
        (packed(wire.Tag.QUERY, 1, "everything", {}), "Query: field what"),
        (packed(wire.Tag.QUERY, 1, "status", {"a": [{}] * 70_000}), "bytes, at most 65536"),
        (packed(wire.Tag.PREPARED, "w", 1, True, {"a": [{b"b": 1}]}, ""), "field info: wants a map with text"),
        (packed(wire.Tag.REGISTER, "w", "cpu", 1, 1, "h", 1 << 31, {}, 0, [], 2), "Register: field pid"),
    ],
)  # fmt: skip
def test_refusals_name_the_place(frame: bytes, told: str) -> None:
    """Goal: the message says which field is wrong and what it wants. Method: one frame per rule."""
    with pytest.raises(ProtocolError) as caught:
        wire.decode(frame)
    assert told in caught.value.message


def test_the_number_of_what_cannot_be_read_is_known() -> None:
    """Goal: a refusal is paired with its request however odd that is. Method: a value too deep to be looked at, and
    none at all, behind the number.
    """
    frame = packed(wire.Tag.QUERY, 5, "status", {"lane": 0})[:-1] + b"\x91" * 5_000 + b"\xc0"
    with pytest.raises(ProtocolError):
        wire.decode(frame)
    assert wire.request_number(frame) == wire.request_number(frame[:40]) == 5


def test_deep_values_are_refused() -> None:
    """Goal: printing or packing a value later does not run out of stack. Method: a map of 200 levels."""
    value: Any = {}
    for _ in range(200):
        value = {"a": value}
    with pytest.raises(ProtocolError, match="levels"):
        wire.decode(packed(wire.Tag.REFUSED, 1, "busy", "", value))


@pytest.mark.parametrize("size", [limits.MESSAGE_CHARS_MAX, limits.MESSAGE_CHARS_MAX + 1])
def test_texts_of_workers_are_bounded(size: int) -> None:
    """Goal: no worker fills a log. Method: the reason of a fold and why code cannot be used, at the bound and over it;
    our own workers cut what is longer.
    """
    bound, text = limits.MESSAGE_CHARS_MAX, "x" * size
    folds = (FoldResult((), None, "faulted", text),)
    sent = wire.decode(wire.encode(messages.Completed("w", 1, folds, 1)), wire.FROM_WORKERS)
    assert isinstance(sent, messages.Completed)
    assert sent.folds[0].reason == text[:bound]
    values = msgpack.unpackb(wire.encode(messages.Completed("w", 1, folds, 1)))
    values[4][1][0][3] = text
    for frame in (msgpack.packb(values), wire.encode(messages.Prepared("w", 1, False, {}, text))):
        if size <= bound:
            wire.decode(frame, wire.FROM_WORKERS)
        else:
            with pytest.raises(ProtocolError):
                wire.decode(frame, wire.FROM_WORKERS)
