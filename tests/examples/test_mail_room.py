"""desk.c, department.c and critic.c, one message at a time. The driver in conftest.py calls each of them alice."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from rota.common.text_calls import GENERATE, GenerateCall, decode_text_call
from rota.common.text_results import GenerateResult, TokenLogprob, Usage, encode_text_result

Make = Callable[..., Any]  # the fixture `agent`: a name makes one
NAMES = ("billing", "delivery", "technical", "returns")
HEAD = bytes(range(32))


def packed(*values: Any) -> bytes:
    data: bytes = msgpack.packb(list(values))
    return data


def answer(**fields: Any) -> bytes:
    """Return a model's answer."""
    result = GenerateResult("text", (5,), "stop", None, Usage(9, 1))._replace(**fields)
    return encode_text_result(result)


def reply(agent: Any, payload: bytes, kind: str = "reply") -> Any:
    return agent.send(payload, kind=kind, sender="model:smollm2", reply_to=(9, 8, 0))


def asked(step: Any) -> list[GenerateCall]:
    """Return what a step asks the model, as the worker reads it."""
    assert [emit.target for emit in step.emits] == ["model:smollm2"] * len(step.emits)
    calls = []
    for emit in step.emits:
        assert emit.kind == "ask"
        call = decode_text_call(emit.payload, GENERATE)
        assert isinstance(call, GenerateCall)
        calls.append(call)
    return calls


# --- department -----------------------------------------------------------------------------------


def test_a_bid_is_the_probability_of_the_own_name(agent: Make) -> None:
    """Goal: what is asked and told for a bid. Method: a text, then an answer of two tokens."""
    department = agent("department")
    (call,) = asked(department.send(packed("bid", 7, "Where is it?")))
    assert call.prompt is not None
    assert call.prompt.endswith("Message: Where is it?\nDepartment:")
    assert call.prompt.count("Department: ") == 8
    assert call.output is not None
    assert call.output.rule == (" alice",)
    assert call.logprobs == 0
    step = reply(department, answer(logprobs=(TokenLogprob(-1.5, ()), TokenLogprob(-0.25, ()))))
    (emit,) = step.emits
    assert (emit.target, msgpack.unpackb(emit.payload)) == ("critic/main", [7, "alice", -1_750_000])


def test_titles_fork_one_conversation(agent: Make) -> None:
    """Goal: the examples are sent once, and each title continues the same head. Method: texts before and after it."""
    department = agent("department")
    (first,) = asked(department.send(packed("title", 0, "one")))
    assert first.conversation == b""
    assert first.messages is not None
    assert [one.role for one in first.messages] == ["system", *["user", "assistant"] * 5, "user"]
    assert first.output is not None
    assert department.send(packed("title", 1, "two")).emits == []
    titles = asked(reply(department, answer(conversation=HEAD)))
    titles += asked(department.send(packed("title", 2, "three")))
    assert [call.conversation for call in titles] == [HEAD] * 3
    contents = [[one.content for one in call.messages or ()] for call in titles]
    assert contents == [[f"Message: {text}\nSubject:"] for text in ("one", "two", "three")]
    for number in range(3):
        step = reply(department, answer(text=f"title {number}", conversation=bytes(32)))
        (emit,) = step.emits
        assert (emit.target, msgpack.unpackb(emit.payload)) == ("desk/main", ["title", number, f"title {number}"])
        assert step.result == f"title {number}".encode()
    assert reply(department, answer()).error == "not_asked"


def test_a_failed_answer_takes_its_place(agent: Make) -> None:
    """Goal: a failure of the model does not shift the answers after it. Method: the first of two bids fails."""
    department = agent("department")
    for number in (3, 4):
        department.send(packed("bid", number, "text"))
    step = reply(department, packed("timeout", "it took too long"), "failure")
    assert step.emits == []
    assert step.log == ["no bid from the model: timeout: it took too long"]
    (emit,) = reply(department, answer(logprobs=(TokenLogprob(-2.0, ()),))).emits
    assert msgpack.unpackb(emit.payload) == [4, "alice", -2_000_000]


@pytest.mark.parametrize("payload", [b"", packed("bid", 1), packed("sing", 1, "text"), packed("bid", "x", "text")])
def test_a_department_refuses_other_messages(agent: Make, payload: bytes) -> None:
    """Goal: a wrong message is an error and changes nothing. Method: one of each kind."""
    department = agent("department")
    assert department.send(payload).error == "bad_payload"
    assert department.state is None


# --- critic ---------------------------------------------------------------------------------------


def test_the_critic_takes_off_what_a_department_always_bids(agent: Make) -> None:
    """Goal: who is named more readily has no advantage. Method: random bids, in random order, against the formula."""
    chance = random.Random(3)
    count = 6
    bids = {(number, name): chance.randrange(-20_000_000, 0) for number in range(count) for name in NAMES}
    bids |= {(number, "billing"): bids[number, "billing"] + 15_000_000 for number in range(count)}
    order = list(bids)
    chance.shuffle(order)
    critic = agent("critic")
    critic.send(packed(count))
    steps = [critic.send(packed(number, name, bids[number, name])) for number, name in order]
    assert [len(step.emits) for step in steps] == [0] * (4 * count - 1) + [count]
    means = {name: sum(bids[number, name] for number in range(count)) / count for name in NAMES}
    wanted = []
    for number in range(count):
        winner = max(NAMES, key=lambda name: bids[number, name] - means[name])
        wanted.append(["decision", number, winner, max(NAMES, key=lambda name: bids[number, name])])
    assert [msgpack.unpackb(emit.payload) for emit in steps[-1].emits] == wanted
    assert {emit.target for emit in steps[-1].emits} == {"desk/main"}
    assert [one[3] for one in wanted].count("billing") > [one[2] for one in wanted].count("billing")
    assert critic.send(packed(0, "billing", 1)).error == "bad_payload"  # all bids were in


def test_the_critic_refuses_other_messages(agent: Make) -> None:
    """Goal: wrong messages are errors. Method: no count, too many messages, an unknown number, a fifth department."""
    critic = agent("critic")
    for payload in (b"", packed(0), packed(1001)):
        assert critic.send(payload).error == "bad_payload"
    critic.send(packed(2))
    for payload in (packed(2, "billing", 1), packed(0, "billing"), packed(0, "billing", "x")):
        assert critic.send(payload).error == "bad_payload"
    for name in NAMES:
        assert not critic.send(packed(0, name, -1)).error
    assert critic.send(packed(0, "sales", -1)).error == "bad_payload"


# --- desk -----------------------------------------------------------------------------------------


def test_the_desk_plans_and_reports(agent: Make) -> None:
    """Goal: each text goes to every department, and to the winner again. Method: two texts, start to end."""
    desk = agent("desk")
    step = desk.send(packed("one", "zwei ü"))
    told = [(emit.target, msgpack.unpackb(emit.payload)) for emit in step.emits]
    assert told[0] == ("critic/main", [2])
    texts = ["one", "zwei ü"]
    assert told[1:] == [(f"department/{name}", ["bid", i, texts[i]]) for i in range(2) for name in NAMES]
    (emit,) = desk.send(packed("decision", 1, "returns", "billing")).emits
    assert (emit.target, msgpack.unpackb(emit.payload)) == ("department/returns", ["title", 1, "zwei ü"])
    assert msgpack.unpackb(desk.send(packed()).result) == [
        ["one", None, None, None], ["zwei ü", "returns", "billing", None],
    ]  # fmt: skip
    desk.send(packed("title", 1, "Two"))
    desk.send(packed("decision", 0, "billing", "billing"))
    assert msgpack.unpackb(desk.send(packed()).result) == [
        ["one", "billing", "billing", None], ["zwei ü", "returns", "billing", "Two"],
    ]  # fmt: skip


def test_the_desk_refuses_other_messages(agent: Make) -> None:
    """Goal: wrong messages are errors and change nothing. Method: some before the mail, some after it."""
    desk = agent("desk")
    for payload in (b"", packed(), packed(1, 2), packed("text", None)):
        assert desk.send(payload).error == "bad_payload"
    desk.send(packed("text"))
    before = desk.state
    for payload in (packed("decision", 5, "a", "b"), packed("what", 0, "x"), packed("title", "x", "y"), b"\xc1"):
        assert desk.send(payload).error == "bad_payload"
    assert desk.state == before
