"""turn_content.py and origins.py: what a turn digest covers, field by field, and the digests of requests."""

from __future__ import annotations

import msgpack
from blake3 import blake3
from core_kit import Broker
from scripted import program

from rota.broker import records
from rota.broker.origins import fits_origin, request_digest
from rota.broker.turn_content import TurnContent, turn_content, turn_digest
from rota.common.digests import ZERO_DIGEST
from rota.common.messages import LaneSettings, OpenLane, Submit, TaskRun
from rota.runs.differing import turn_parts


def retired(broker: Broker, *payloads: bytes) -> list[TurnContent]:
    alice = broker.producer()
    alice.deploy("counter")
    broker.worker("w1")
    alice.submit("counter/a", *payloads)
    broker.run()
    tasks = broker.core.world.results.kept()
    assert all(task.outcome is not None for task in tasks)
    return [turn_content(task, task.outcome) for task in tasks if task.outcome is not None]


def test_the_digest_is_of_the_content_alone(broker: Broker) -> None:
    """Goal: what is compared is what is digested, in the bytes of docs/JOURNAL.md. Method: chain contents by hand."""
    digest = ZERO_DIGEST
    for content in retired(broker, program(["add", 1]), program(["fail", "no"]), program(["tell", "counter/b", []])):
        assert turn_digest(digest, content) == blake3(msgpack.packb([digest, *content])).digest()
        digest = turn_digest(digest, content)
    assert broker.core.world.lanes["main"].digest == digest


def test_every_field_of_the_content_is_compared(broker: Broker) -> None:
    """Goal: a field that the digest covers cannot be left out where runs are compared. Method: two tasks that differ in
    all of them are told apart by as many parts; the same task by none.
    """
    retired(broker, program(["add", 1]))
    ghost = broker.producer("bob")
    ghost.submit("ghost", program(["ask", "counter/a", []]), priority=3)
    broker.run()
    one, other = broker.core.world.results.kept()
    assert turn_parts(one, one) == turn_parts(other, other) == []
    told = [part.name for part in turn_parts(one, other)]
    assert told == ["turn", "target", "priority", "payload", "code digest", "outcome", "state digest"]
    same = ("kind", "sender", "tensors", "reply to")
    assert [name.replace("_", " ") for name in TurnContent._fields if name != "effect"] == [
        *told[:2], "kind", "sender", *told[2:4], "tensors", "reply to", told[4], told[6]
    ]  # fmt: skip
    assert not set(same) & set(told)


def test_a_record_fits_the_request_that_made_it() -> None:
    """Goal: a pinned time, a default seed and an inherited deploy are all what a producer can have asked for, and
    another lane is not. Method: digests of such requests in records.
    """
    run = TaskRun.of("counter/a", 0, (b"x",))
    for now_ms in (None, 7):
        origin = records.Origin("p", 1, request_digest(Submit(1, "main", (run,), True, now_ms, None)))
        record = records.Submitted("main", 0, 7, origin, 1, (run,), None)
        assert fits_origin(record, ())
        assert not fits_origin(record._replace(lane="side"), ())
    asked = OpenLane(1, "side", LaneSettings(seed=bytes(32)), False, "main")
    opened = records.Opened("side", 0, records.Origin("p", 1, request_digest(asked)), asked.settings, False, ())
    assert fits_origin(opened, ("main",))
    assert not fits_origin(opened, ())
