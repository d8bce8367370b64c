"""The examples in docs/PROTOCOL.md and docs/JOURNAL.md are what the code does, byte by byte.

Authors of producers, workers or verifiers in other languages compare with these bytes, so they are made again here, by
the code and by MessagePack and BLAKE3 alone. If one fails, the protocol or the format has changed: see "Changing the
format" in docs/JOURNAL.md before changing the example.
"""

from __future__ import annotations

import ast
import re
import struct
from pathlib import Path
from typing import Any

import msgpack
import pytest
from blake3 import blake3
from core_kit import Broker

from rota.broker import records
from rota.broker.effects import FromProducer
from rota.broker.journal import link
from rota.broker.world import World
from rota.common import limits, messages, wire
from rota.common.columns import Addresses, Blobs
from rota.common.digests import digest, digest_of, entropy, lane_seed
from rota.common.errors import ProtocolError

RUN = messages.TaskRun.of("echo", 0, (b"", b""))
DOCS = Path(__file__).resolve().parent.parent / "docs"
PROTOCOL = (DOCS / "PROTOCOL.md").read_text(encoding="utf-8")
JOURNAL = (DOCS / "JOURNAL.md").read_text(encoding="utf-8")


def _example_rows() -> list[tuple[str, bytes, str]]:
    """Return name, body and the beginning of the chain of each record of the example."""
    rows = re.findall(r"^\| \d+ \| (\w+) \| `([0-9a-f]+)` \| `([0-9a-f]{8})\.\.\.` \|$", JOURNAL, re.MULTILINE)
    return [(name, bytes.fromhex(body), chain) for name, body, chain in rows]


def test_the_example_journal_is_one() -> None:
    """Goal: the record bodies and chain digests are ours. Method: decode, encode and chain the rows of the table."""
    chain = bytes(32)
    for name, body, beginning in _example_rows():
        record = records.decode(body)
        assert type(record).__name__ == name
        assert records.encode(record) == body
        chain = link(chain, body)
        assert chain.hex().startswith(beginning)
    assert len(_example_rows()) == 6


def test_the_example_journal_gives_the_example_digest() -> None:
    """Goal: a verifier can be written from the page. Method: fold the rows; hash the shown bytes without our code."""
    world = World()
    for _, body, _ in _example_rows():
        world.apply(records.decode(body))
    lane = world.lanes["main"]
    assert lane.retired == 2
    assert f"`{lane.digest.hex()}`" in JOURNAL

    shown = "".join(re.findall(r"^    ([0-9a-f]+)$", JOURNAL, re.MULTILINE))
    first = blake3(bytes.fromhex(shown)).digest()
    assert f"`{first.hex()}`" in JOURNAL
    effect = [1, "unknown_agent", "'echo' was not deployed in this lane"]
    second = [first, 2, "echo", "tell", "counter/alice", 0, b"x", [], None, None, effect, None]
    assert blake3(msgpack.packb(second)).digest() == lane.digest


def test_the_digest_of_a_request_is_as_told() -> None:
    """Goal: origins can be recomputed. Method: the content that the page names, against the example's records."""
    deployed, submitted = [records.decode(body) for _, body, _ in _example_rows()[2:4]]
    assert isinstance(deployed, records.Deployed)
    assert isinstance(submitted, records.Submitted)
    assert deployed.origin.request == digest_of(["Deploy", ["main", deployed.name, deployed.code]])
    assert submitted.origin.request == digest_of(["Submit", ["main", submitted.runs, None, None, "tell", 0]])
    assert deployed.code.digest == digest(b"module")


def test_the_examples_of_the_protocol() -> None:
    """Goal: the shown frames and entropy are right. Method: make them from the code."""
    hello = wire.encode(messages.Hello(4503599627370497, "p")).hex()
    accepted = wire.encode(messages.Accepted(1, 1, 2)).hex()
    shown = [text.replace(" ", "") for text in re.findall(r"`([0-9a-f ]+)`", PROTOCOL)]
    assert hello in shown
    assert accepted in shown
    assert entropy(lane_seed("main"), 1).hex() in shown


def test_every_tag_and_kind_is_told() -> None:
    """Goal: the tables of numbers are whole. Method: the enums against the pages."""
    for tag in wire.Tag:
        assert f"| {int(tag)} | {wire.SCHEMA[tag].cls.__name__} |" in PROTOCOL, tag
    for kind in records.Kind:
        assert re.search(rf"^\| {int(kind)} \| \w+ \| `", JOURNAL, re.MULTILINE), kind


def test_programs_on_the_pages_are_python() -> None:
    """Goal: what is shown can be typed in. Method: parse every block of Python."""
    blocks = re.findall(r"^```python\n(.*?)^```", PROTOCOL + JOURNAL, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        ast.parse(block)


def test_what_comes_before_hello_is_refused_as_told() -> None:
    """Goal: the page and the broker give the same code. Method: three requests on a connection without a Hello."""
    (said,) = re.findall(r"Any other request before the Hello is refused with `(\w+)`", PROTOCOL)
    broker = Broker()
    submit = messages.Submit(1, "main", (RUN,), True, None, None)
    for request in (submit, messages.Await(1, 1, 1), messages.Drain(1, True)):
        broker.step(FromProducer(b"nobody", request))
        refused = broker.sent[-1].message
        assert isinstance(refused, messages.Refused)
        assert refused.code == said


def test_what_counts_as_other_content_is_as_told() -> None:
    """Goal: who repeats a number knows when it is a repeat. Method: the cases that the page names, against the core."""
    broker = Broker()
    alice = broker.producer()
    assert isinstance(alice.submit_runs(RUN, number=1, wait=True), messages.Accepted)
    assert isinstance(alice.submit_runs(RUN, number=1, wait=False), messages.Accepted)
    half = RUN._replace(payloads=Blobs.of((b"",)))
    cut = [half, half]
    each = RUN._replace(targets=Addresses.of(("echo", "echo")))
    table = RUN._replace(targets=Addresses(("x", "echo"), (1, 1)))
    cases: list[tuple[list[messages.TaskRun], dict[str, Any]]] = [
        ([each], {}), (cut, {}), ([table], {}), ([RUN], {"now_ms": 1}),
    ]  # fmt: skip
    for runs, fields in cases:
        refused = alice.submit_runs(*runs, number=1, **fields)
        assert isinstance(refused, messages.Refused), runs
        assert refused.code == "number_reused"


def test_integers_are_as_a_javascript_client_is_told() -> None:
    """Goal: the advice about large numbers holds. Method: a number from 2^52 on as uint64 and as a float, and fuel."""
    number = 1 << 52
    frame = wire.encode(messages.Hello(number, "p"))
    whole = b"\xcf" + number.to_bytes(8, "big")
    assert whole in frame
    with pytest.raises(ProtocolError):
        wire.decode(frame.replace(whole, b"\xcb" + struct.pack(">d", number)), wire.FROM_PRODUCERS)
    wide = [name for name, value in vars(limits).items() if type(value) is int and value > (1 << 53) - 1]
    assert wide == ["FUEL_MAX"]
