"""The example agents, one message at a time, and rota.h with any input. The driver is in conftest.py."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ENTROPY = bytes(range(100, 132))  # as in conftest.py
NOW_MS = 1_700_000_000_000

Make = Callable[..., Any]  # the fixtures `agent` and `guest`: a name makes one


def only(result: bytes) -> tuple[Any, ...]:
    """Return the step that only gives a result."""
    return (None, result, [], [], [], "", "")


def test_no_agent_imports_more_than_the_abi_offers(modules: Any) -> None:
    """Goal: the modules stay freestanding. Method: list imports and exports of every committed .wasm."""
    for name, module in modules.by_name.items():
        imports = [(item.module, item.name) for item in module.imports]
        exports = {item.name for item in module.exports}
        entry = "rota_call" if name == "echo_function" else "rota_step"
        assert set(imports) <= {("rota", "fail"), ("rota", "log"), ("rota", "tensor_read")}, name
        assert (name == "echo_function") == (imports == []), name
        assert exports == {"memory", "rota_alloc", entry}, name


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(256)) * 300, b"x" * (1 << 20)])
def test_echo_gives_back_any_payload(agent: Make, guest: Make, payload: bytes) -> None:
    """Goal: payloads of every length class of MessagePack pass. Method: echo them."""
    assert agent("echo").send(payload) == only(payload)
    assert guest("echo_function").call("rota_call", payload) == payload


@settings(max_examples=50, deadline=None)
@given(
    state=st.none() | st.binary(max_size=300),
    kind=st.sampled_from(["tell", "ask", "reply", "failure", "timer"]),
    sender=st.none() | st.text(max_size=70),
    payload=st.binary(max_size=300),
    turn=st.integers(1, (1 << 64) - 1),
    reply_to=st.none() | st.tuples(*[st.integers(0, (1 << 64) - 1)] * 3),
    shapes=st.lists(st.lists(st.integers(0, 1 << 40), max_size=4), max_size=20),
)
def test_any_input_of_the_abi_is_read(
    guest: Make,
    state: bytes | None,
    kind: str,
    sender: str | None,
    payload: bytes,
    turn: int,
    reply_to: tuple[int, int, int] | None,
    shapes: list[list[int]],
) -> None:
    """Goal: rota.h reads every form of every field. Method: random fields, one of a later ABI too, to echo."""
    tensors = [[b"\1" * 32, "float32", shape] for shape in shapes]
    message = [1, state, kind, sender, payload, turn, NOW_MS, ENTROPY, reply_to, tensors, "name/key", "a later field"]
    answer = msgpack.unpackb(guest("echo").call("rota_step", msgpack.packb(message)))
    assert answer == [1, 0, None, payload, [], []]


@settings(max_examples=200, deadline=None)
@given(junk=st.binary(max_size=200))
def test_an_input_that_is_none_is_an_error(guest: Make, junk: bytes) -> None:
    """Goal: a host of another version gets an error, never a trap or a loop. Method: random bytes as the input."""
    echo = guest("echo")
    with pytest.raises(echo.failed):
        echo.call("rota_step", junk)
    assert echo.failure[0] == "abi"


def test_a_length_that_is_a_lie_is_an_error(guest: Make) -> None:
    """Goal: a promise of 2^32 tensors neither loops nor takes memory. Method: a lie in place of the last array."""
    message = msgpack.packb([1, None, "tell", None, b"", 1, NOW_MS, ENTROPY, None, []])
    echo = guest("echo")
    size = echo.memory_bytes()
    with pytest.raises(echo.failed):
        echo.call("rota_step", message[:-1] + b"\xdd\xff\xff\xff\xff")
    assert echo.failure[0] == "abi"
    assert echo.memory_bytes() == size


@pytest.mark.parametrize("bits", [0, 4, 5, 7, 8, 15, 16, 31, 32, 63])
def test_writing_is_canonical(agent: Make, bits: int) -> None:
    """Goal: shortest forms: one value, one digest. Method: integers and lengths at each bound, against msgpack."""
    for value in ((1 << bits) - 1, 1 << bits, (1 << bits) + 1):
        tally = agent("tally")
        label = "a" * min(value, 70_000)
        step = tally.send(msgpack.packb([label, "", value, 0.0]))
        assert tally.state == msgpack.packb([1, value])
        assert step.emits[0].payload == msgpack.packb([label, 1, value])


def test_memory_starts_over_after_each_answer(guest: Make) -> None:
    """Goal: a reused instance does not grow without end. Method: many messages of 100 kB through one instance."""
    echo = guest("echo")
    message = msgpack.packb([1, None, "tell", None, b"x" * 100_000, 1, NOW_MS, ENTROPY, None, [], "echo/a"])
    echo.call("rota_step", message)
    size = echo.memory_bytes()
    for _ in range(100):
        echo.call("rota_step", message)
    assert echo.memory_bytes() == size


def test_counter_counts_and_get_only_reads(agent: Make) -> None:
    """Goal: state goes in and out. Method: two messages, a get, one more; then a state that is none of a counter's."""
    counter = agent("counter")
    assert counter.send(b"get") == only(b"0")
    assert [counter.send(b"+").result, counter.send(b"").result] == [b"1", b"2"]
    assert counter.send(b"get") == only(b"2")
    assert counter.state == msgpack.packb(2)
    counter.state = msgpack.packb(2**62)
    assert counter.send(b"+").result == b"4611686018427387905"
    counter.state = msgpack.packb("abc")
    assert counter.send(b"+").error == "bad_value"


def test_relay_tells_children_chosen_by_entropy(agent: Make) -> None:
    """Goal: the tree of relay.c and its order-sensitive state. Method: compare with the rule written out here."""
    relay = agent("relay")
    step = relay.send(b"3 40 7")
    assert [emit.target for emit in step.emits] == [f"relay/{(ENTROPY[i % 32] + i) % 7}" for i in range(40)]
    assert [emit[1:] for emit in step.emits] == [(b"2 40 7", 0, "tell", [], 0)] * 40
    assert step.result == b"1"
    assert relay.send(b"0 40").emits == []
    assert relay.state == msgpack.packb(struct.pack("<QQ", 2, fnv1a([(1, b"3 40 7"), (2, b"0 40")])))
    assert relay.send(b"1 2").emits[0].payload == b"0 2 16"


def fnv1a(messages: list[tuple[int, bytes]]) -> int:
    value = 0xCBF29CE484222325
    for turn, payload in messages:
        for byte in struct.pack("<Q", turn) + payload:
            value = (value ^ byte) * 0x100000001B3 % (1 << 64)
    return value


@pytest.mark.parametrize("payload", [b"", b"1", b"x 2", b"1 2 0", b"-1 2", b"1 1234567890123456789"])
def test_relay_refuses_what_it_cannot_read(agent: Make, payload: bytes) -> None:
    """Goal: a typed error that shows the remedy, not a trap. Method: wrong payloads."""
    assert "DEPTH FANOUT" in agent("relay").send(payload).message


def test_asker_keeps_replies_and_failures(agent: Make) -> None:
    """Goal: ask, reply and failure. Method: play the part of the other agent."""
    asker = agent("asker")
    assert asker.send(b"get").result == b""
    assert asker.send(b"").emits == [("counter/x", b"", 0, "ask", [], 0)]
    assert asker.send(b"echo/y hello you").emits == [("echo/y", b"hello you", 0, "ask", [], 0)]
    assert asker.state is None
    asker.send(b"41", kind="reply", sender="counter/x", reply_to=(77, 2, 0))
    assert asker.send(b"get").result == b"77: 41"
    failure = msgpack.packb(["unknown_agent", "no code for it"])
    asker.send(failure, kind="failure", sender="x/y", reply_to=(1 << 40, 3, 0))
    assert asker.state == msgpack.packb("1099511627776 failed: unknown_agent: no code for it")


def test_reminder_sets_timers_and_counts_those_that_fire(agent: Make) -> None:
    """Goal: timers. Method: set two, let one fire, read the state."""
    reminder = agent("reminder")
    step = reminder.send(b"1500 tea is ready")
    assert step.emits == [("reminder/alice", b"tea is ready", 0, "timer", [], 1500)]
    assert step.result == f"at {NOW_MS + 1500}".encode()
    reminder.send(b"5 x")
    assert reminder.send(b"tea is ready", kind="timer", sender="reminder/alice").result == b"tea is ready"
    assert reminder.send(b"get").result == b"1 1 tea is ready"
    assert reminder.send(b"soon").error == "bad_payload"


def test_tensor_sum_reads_in_slices_and_hands_the_tensor_on(agent: Make) -> None:
    """Goal: tensor_read and result tensors. Method: a tensor of three slices and a bit, an empty one, and none."""
    data = random.Random(5).randbytes(200_000)
    assert agent("tensor_sum").send(b"", tensors=(data,)) == (None, str(sum(data)).encode(), [], [], [0], "", "")
    assert agent("tensor_sum").send(b"", tensors=(b"",)).result == b"0"
    assert "send a tensor" in agent("tensor_sum").send(b"").message


def test_tally_adds_up_and_tells_the_reporter(agent: Make) -> None:
    """Goal: count and bytes. Method: three files, one of them of 5 GB."""
    tally = agent("tally")
    sizes = [10, 5 << 30, 0]
    for number, size in enumerate(sizes):
        step = tally.send(msgpack.packb(["python", "p", size, 0.5]))
        total = sum(sizes[: number + 1])
        assert step.result == str(number + 1).encode()
        assert [(emit.target, msgpack.unpackb(emit.payload)) for emit in step.emits] == [
            ("reporter/main", ["python", number + 1, total])
        ]
    assert msgpack.unpackb(tally.state or b"") == [3, 10 + (5 << 30)]
    assert tally.send(b"python").error == "bad_payload"


def test_reporter_keeps_a_sorted_table(agent: Make) -> None:
    """Goal: the table is the newest totals, sorted. Method: 300 news of 60 labels in random order against a dict."""
    reporter = agent("reporter")
    assert reporter.send(b"report").result == b"\x80"
    table: dict[str, list[int]] = {}
    draw = random.Random(11)
    for number in range(300):
        label = f"{draw.choice('zyxwvaä')}{'q' * draw.randrange(10)}"
        table[label] = [number, draw.randrange(1 << 40)]
        reporter.send(msgpack.packb([label, *table[label]]))
    report = reporter.send(b"report")
    assert report.state is None
    assert report.result == msgpack.packb({label: table[label] for label in sorted(table, key=str.encode)})
    assert reporter.send(b"repor").error == "bad_payload"
