"""The output of an agent, field by field, and the message for each violation. Pure: no sandbox runs here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.common.digests import digest, entropy
from rota.common.limits import (
    DELAY_MS_MAX,
    LOG_LINES_MAX,
    MESSAGE_CHARS_MAX,
    PAYLOAD_BYTES_MAX,
    PRIORITY_MAX,
    PRIORITY_MIN,
)
from rota.common.work import Done, Emit, Failed, Limits, Outcome, TaskInput, TensorRef
from rota.cpu_worker import abi
from rota.cpu_worker.abi_emits import EMIT_FIELDS
from rota.cpu_worker.abi_values import CONTAINERS_MAX
from rota.cpu_worker.task_log import STDOUT, TaskLog

REFS = (TensorRef(b"a" * 32, "float32", (2,)), TensorRef(b"b" * 32, "uint8", (3, 4)))
TASK = TaskInput(1, "tell", None, b"", 0, None, REFS, 3, 4_000)
LIMITS = Limits(emits_max=8, result_bytes=4, state_bytes=5, log_bytes=10)


def decode(value: Any, task: TaskInput = TASK, limits: Limits = LIMITS) -> tuple[Outcome, bytes | None]:
    return decode_bytes(msgpack.packb(value), task, limits)


def decode_bytes(data: bytes, task: TaskInput = TASK, limits: Limits = LIMITS) -> tuple[Outcome, bytes | None]:
    log = TaskLog(limits.log_bytes)
    return abi.decode_output(data, address="counter/alice", state=None, task=task, limits=limits, fuel=9, log=log)


def failure(value: Any) -> tuple[str, str]:
    outcome, state = decode(value)
    assert isinstance(outcome, Failed)
    assert state is None
    return outcome.kind, outcome.message


def emit_failure(*fields: Any) -> str:
    kind, message = failure([1, 0, None, None, [["ok/1", b""], list(fields)]])
    assert kind == "bad_output"
    assert message.startswith("emits[1]")
    return message


def test_shortest_output() -> None:
    """Goal: emits, log and tensors may be left out; nil leaves the state.

    Method: the four fields that must be there.
    """
    assert decode([1, 0, None, None]) == (Done(None, None, (), (), 9, ()), None)


def test_full_output() -> None:
    """Goal: every field arrives. Method: one output that uses them all, at their bounds."""
    emits = [
        ["counter/alice", b"p", PRIORITY_MAX, "timer", [1, 0], DELAY_MS_MAX],
        ["model:m", b"", PRIORITY_MIN, "ask", []],
        ["b/c", b"q"],
    ]
    outcome, state = decode([1, 0, b"state", b"four", emits, ["hello"], [0]])
    assert state == b"state"
    assert outcome == Done(
        b"four",
        digest(b"state"),
        (
            Emit("counter/alice", b"p", PRIORITY_MAX, "timer", (REFS[1], REFS[0]), DELAY_MS_MAX),
            Emit("model:m", b"", PRIORITY_MIN, "ask", (), 0),
            Emit("b/c", b"q", 0, "tell", (), 0),
        ),
        ("hello",),
        9,
        (REFS[0],),
        5,
    )


def test_empty_state_is_a_state() -> None:
    """Goal: empty bytes are a new state, nil is none. Method: its digest is there."""
    outcome, state = decode([1, 0, b"", None])
    assert isinstance(outcome, Done)
    assert (outcome.state_digest, state) == (digest(b""), b"")


def test_error_of_the_agent() -> None:
    """Goal: code and message of an agent's own error come through, cut at the bound.

    Method: short and long, with and without log.
    """
    assert decode([1, 1, "late", "try later", ["line"]]) == (Failed("error", "late: try later", ("line",), 9), None)
    assert failure([1, 1, "late", "x" * 5000]) == ("error", ("late: " + "x" * 5000)[:MESSAGE_CHARS_MAX])
    assert failure([1, 1, "", "x"]) == ("bad_output", "code: '', not a str that is not empty")
    assert failure([1, 1, "a", None]) == ("bad_output", "message: None, not a str")
    assert failure([1, 1, "a"])[1] == "output: 3 fields with status 1, not 4 to 5"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "output: not an array that starts with version and status"),
        ([1], "output: not an array that starts with version and status"),
        ([2, 0, None, None], "version: 2, not 1"),
        ([True, 0, None, None], "version: True, not 1"),
        ([1, 2, None, None], "status: 2, not 0 or 1"),
        ([1, False, None, None], "status: False, not 0 or 1"),
        ([1, 0, None], "output: 3 fields with status 0, not 4 to 8"),
        ([1, 0, None, None, [], [], [], "", 0], "output: 9 fields with status 0, not 4 to 8"),
        ([1, 0, None, None, [], [], [], 0], "waits: 0, not str or nil"),
        ([1, 0, None, b"", [], [], [], ""], "waits: a task that is not over has no result and no tensors yet"),
        ([1, 0, None, None, [], [], [0], ""], "waits: a task that is not over has no result and no tensors yet"),
        ([1, 0, "text", None], "state: 'text', not bin of at most 5 bytes (state_bytes) or nil"),
        ([1, 0, b"sixsix", None], "the state has 6 bytes, and at most 5 are kept: state_bytes"),
        ([1, 0, None, b"five5"], "result: bin of 5 bytes, not bin of at most 4 bytes (result_bytes) or nil"),
        ([1, 0, None, 1.5], "result: 1.5, not bin of at most 4 bytes (result_bytes) or nil"),
        ([1, 0, None, None, None], "emits: None, not an array"),
        ([1, 0, None, None, [], "line"], "log: 'line', not an array of str"),
        ([1, 0, None, None, [], ["a", b"b"]], "log[1]: bin of 1 bytes, not a str"),
        ([1, 0, None, None, [], [], [2]], "tensors: 2, not an index into the task's 2 tensors"),
        ([1, 0, None, None, [], [], [-1]], "tensors: -1, not an index into the task's 2 tensors"),
        ([1, 0, None, None, [], [], [True]], "tensors: True, not an index into the task's 2 tensors"),
        ([1, 0, None, None, [], [], [0] * 257], "tensors: array of 257, not an array of at most 256 indices"),
        ([1, 0, None, None, [], [], {}], "tensors: map of 0, not an array of at most 256 indices"),
    ],
)  # fmt: skip
def test_output_that_breaks_a_rule(value: Any, message: str) -> None:
    """Goal: each breach is `bad_output` and names field, value and bound. Method: one wrong output per rule."""
    assert failure(value) == ("bad_output", message)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ([1, 0, None, None, [], ["fine", "caf\udce9"]], "log[1]"),
        ([1, 0, None, None, [["a/\udcff", b""]], []], "emits[0][0]"),
        ([1, 0, None, "\udcff"], "result"),
        ([1, 1, "code", "\udcff", []], "message"),
        ([1, 1, "\udcff", "", []], "code"),
        ([1, 1, "code", "", ["\udcff"]], "log[0]"),
        (["\udcff"], "version"),
        ([1, 0, None, None, [], [], [], "\udcff"], "waits"),
        ([1, 0, None, None, [], [], [], 0, "\udcff"], "output[8]"),
        ({"\udcff": 1}, "output"),
    ],
)
def test_text_that_is_not_utf_8_is_named(fields: Any, named: str) -> None:
    """Goal: a Latin-1 line in the log is easily found. Method: such bytes in each field that may hold text."""
    data = msgpack.packb(fields, unicode_errors="surrogateescape")
    outcome, _ = abi.decode_output(
        data, address="a", state=None, task=TASK, limits=Limits(), fuel=0, log=TaskLog(16384)
    )
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.message) == ("bad_output", f"{named}: a str that is not UTF-8")


def test_emit_that_breaks_a_rule() -> None:
    """Goal: the same for each field of an emit. Method: one wrong emit per rule, behind a good one."""
    assert emit_failure("a/b") == "emits[1]: not an array of 2 to 7 fields"
    assert emit_failure("a b", b"") == "emits[1].target: 'a b', not name/key, name or model:NAME"
    assert emit_failure(b"ab", b"") == "emits[1].target: bin of 2 bytes, not name/key, name or model:NAME"
    assert emit_failure("a" * 500, b"").startswith("emits[1].target: str of 500 characters")
    assert emit_failure("a/b", "text") == f"emits[1].payload: 'text', not bin of at most {PAYLOAD_BYTES_MAX} bytes"
    assert emit_failure("a/b", bytes(PAYLOAD_BYTES_MAX + 1)).startswith("emits[1].payload: bin of 1048577 bytes")
    assert emit_failure("a/b", b"", PRIORITY_MAX + 1) == "emits[1].priority: 8, not -8 to 7"
    assert emit_failure("a/b", b"", PRIORITY_MIN - 1) == "emits[1].priority: -9, not -8 to 7"
    assert emit_failure("a/b", b"", None) == "emits[1].priority: None, not -8 to 7"
    kinds = "tell, ask, timer, reply, failure"
    assert emit_failure("a/b", b"", 0, "replies") == f"emits[1].kind: 'replies', not {kinds}"
    assert emit_failure("a/b", b"", 0, ["tell"]) == f"emits[1].kind: array of 1, not {kinds}"
    assert emit_failure("a/b", b"", 0, "tell", 1).startswith("emits[1].tensors: 1, not an array")
    assert emit_failure("a/b", b"", 0, "tell", [2]) == "emits[1].tensors: 2, not an index into the task's 2 tensors"
    assert emit_failure("a/b", b"", 0, "tell", [], 1) == "emits[1].delay_ms: 1, but a tell has no delay"
    assert emit_failure("counter/alice", b"", 0, "timer", [], -1) == f"emits[1].delay_ms: -1, not 0 to {DELAY_MS_MAX}"
    assert emit_failure("counter/bob", b"", 0, "timer") == (
        "emits[1].target: 'counter/bob', but a timer goes to the agent itself, counter/alice"
    )


def test_too_many_emits() -> None:
    """Goal: past the task's bound, or the limit's, the outcome is `overflow`.

    Method: as many as allowed, then one more, for each.
    """
    emits = [["a/b", b""]] * 9
    assert isinstance(decode([1, 0, None, None, emits[:3]])[0], Done)
    assert failure([1, 0, None, None, emits[:4]]) == (
        "overflow",
        "emits: 4, at most 3 (emits_max)",
    )
    roomy = TASK._replace(emits_max=100)
    assert isinstance(decode([1, 0, None, None, emits[:8]], task=roomy)[0], Done)
    assert decode([1, 0, None, None, emits], task=roomy)[0][:2] == (
        "overflow",
        "emits: 9, at most 8 (emits_max)",
    )


def test_growth() -> None:
    """Goal: past its growth the outcome is `overflow`, and what the task brought comes on top. Method: a task of 3
    bytes and no tensors with 10 of growth: emits, a state, both, and a state that shrinks.
    """
    task = TASK._replace(payload=b"abc", tensors=(), growth_bytes=10)

    def kind(state: bytes | None, *payloads: bytes, before: bytes | None = None) -> str:
        data = msgpack.packb([1, 0, state, None, [["a/b", payload] for payload in payloads]])
        limits = LIMITS._replace(state_bytes=100)
        outcome, _ = abi.decode_output(
            data, address="a/b", state=before, task=task, limits=limits, fuel=1, log=TaskLog(limits.log_bytes)
        )
        return outcome.kind if isinstance(outcome, Failed) else "done"

    assert kind(None, b"x" * 13) == "done"
    assert kind(None, b"x" * 13, b"y") == "overflow"
    assert kind(b"s" * 13) == "done"
    assert kind(b"s" * 14) == "overflow"
    assert kind(b"s" * 33, before=b"s" * 20) == "done"
    assert kind(b"s" * 34, before=b"s" * 20) == "overflow"
    assert kind(b"s" * 20, b"x" * 13, before=b"s" * 20) == "done"
    assert kind(b"", b"x" * 33, before=b"s" * 20) == "done"
    assert kind(b"", b"x" * 34, before=b"s" * 20) == "overflow"


def test_log_is_cut() -> None:
    """Goal: the log never fails a task for its size; it is cut at log_bytes between characters.

    Method: ten bytes, three-byte signs.
    """
    outcome, _ = decode([1, 0, None, None, [], ["12345", "€€€", "gone"]])
    assert outcome.log == ("12345", "€")
    outcome, _ = decode([1, 0, None, None, [], ["1234567890", "gone"]])
    assert outcome.log == ("1234567890",)
    outcome, _ = decode([1, 0, None, None, [], [""] * (LOG_LINES_MAX + 5)])
    assert len(outcome.log) == LOG_LINES_MAX


def test_log_of_the_call_comes_first() -> None:
    """Goal: one log, in order, under one bound. Method: lines of the call, one open, then the answer's."""
    log = TaskLog(10)
    log.write(STDOUT, b"a\nb")
    outcome, _ = abi.decode_output(
        msgpack.packb([1, 0, None, None, [], ["c", "123456789"]]),
        address="a", state=None, task=TASK, limits=LIMITS, fuel=1, log=log,
    )  # fmt: skip
    assert outcome.log == ("a", "b", "c", "1234567")


def test_log_of_a_bad_output_is_kept() -> None:
    """Goal: the log lines are there for debugging. Method: a bad result with a good log."""
    outcome, _ = decode([1, 0, None, "text", [], ["clue"]])
    assert (outcome.kind, outcome.log) == ("bad_output", ("clue",))  # type: ignore[union-attr]


@pytest.mark.parametrize("inner", [[], {}], ids=["arrays", "maps"])
def test_more_containers_than_any_good_output_has(inner: Any) -> None:
    """Goal: no output makes a worker unpack for seconds, silent to its broker. Method: as many as may be, and one more.

    The log that holds them, the emits and the output itself count as well.
    """
    many = CONTAINERS_MAX - 3
    assert failure([1, 0, None, None, [], [inner] * many]) == (
        "bad_output",
        f"log[0]: {'map' if inner == {} else 'array'} of 0, not a str",
    )
    more = f"output: more than {CONTAINERS_MAX} arrays and maps"
    assert failure([1, 0, None, None, [], [inner] * (many + 1)]) == ("bad_output", more)


@pytest.mark.parametrize(
    "data", [b"", b"\xc1", b"\x94\x01", b"\x93\x01\x00\xc0\xc0\xc0", b"\x81\x90\x01", b"\x91" * 2000, b"\xa1\xff"]
)
def test_bytes_that_are_no_message(data: bytes) -> None:
    """Goal: truncated, trailing, invalid, deep or undecodable bytes are `bad_output`. Method: one of each."""
    outcome, state = abi.decode_output(
        data, address="a/b", state=None, task=TASK, limits=LIMITS, fuel=1, log=TaskLog(10)
    )
    assert isinstance(outcome, Failed)
    assert (outcome.kind, state) == ("bad_output", None)


@given(st.binary(max_size=64))
def test_any_bytes_become_an_outcome(data: bytes) -> None:
    """Goal: nothing a guest returns can raise.

    Method: arbitrary bytes, whole and as the fields of a well-formed start.
    """
    for candidate in (data, b"\x97\x01\x00" + data, b"\x95\x01\x01" + data):
        outcome, _ = abi.decode_output(
            candidate, address="a/b", state=None, task=TASK, limits=LIMITS, fuel=1, log=TaskLog(10)
        )
        assert isinstance(outcome, Done | Failed)


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(st.lists(_values, min_size=2, max_size=6))
def test_any_values_become_an_outcome(fields: list[Any]) -> None:
    """Goal: the same for values of every type in every field.

    Method: arbitrary MessagePack behind a right version and status.
    """
    for status in (0, 1):
        outcome, _ = decode([1, status, *fields])
        assert isinstance(outcome, Done | Failed)


def test_tables_name_the_encoded_fields() -> None:
    """Goal: the table of the input has one row per field. Method: compare lengths with an encoded task."""
    encoded = msgpack.unpackb(abi.encode_input(TASK, address="a/b", state=None, entropy=entropy(bytes(32), TASK.turn)))
    assert len(encoded) == len(abi.IN_FIELDS)


def test_tables_are_in_the_docs() -> None:
    """Goal: docs/AGENTS.md shows the tables of the code, field by field. Method: look for each row."""
    page = (Path(__file__).parents[2] / "docs" / "AGENTS.md").read_text(encoding="utf-8")
    for table in (abi.IN_FIELDS, abi.DONE_FIELDS, abi.ERROR_FIELDS, EMIT_FIELDS):
        rows = [f"| {place} | `{name}` | {kind} | {bound} |" for place, (name, kind, bound) in enumerate(table)]
        assert "\n".join(rows) in page


def test_limits_are_in_the_docs() -> None:
    """Goal: docs/AGENTS.md shows every limit with its default. Method: look for the start of each row."""
    page = (Path(__file__).parents[2] / "docs" / "AGENTS.md").read_text(encoding="utf-8")
    for name, default in Limits()._asdict().items():
        assert f"| `{name}` | {default} |" in page


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        (b"\x82\x01\x02\x01\x03", "map of 2"),  # keys that are equal
        (b"\x81\x91\x00\x00", "map of 1"),  # one that no dictionary takes
        (b"\xd6\xff\x00\x00\x00\x01", "1.0"),  # a time stamp
        (b"\xd4\x07\x00", "a MessagePack extension"),
    ],
)
def test_keys_and_extensions_of_a_guest_are_not_kept(field: bytes, shown: str) -> None:
    """Goal: nothing of a guest is hashed, or costs more than a float. Method: a dictionary would show other sizes."""
    outcome, _ = decode_bytes(b"\x96\x01\x00" + field + b"\xc0\x90\x90")
    assert isinstance(outcome, Failed)
    assert outcome.message.startswith(f"state: {shown}, not bin")


@pytest.mark.parametrize("size", [100, 100_000])
def test_arrays_without_their_items_are_refused(size: int) -> None:
    data = (b"\xdd" + size.to_bytes(4, "big")) * min(900, size // 10)
    data += b"\xc0" * (size - len(data))
    outcome, _ = decode_bytes(data)
    assert isinstance(outcome, Failed)
    assert outcome.message == f"output: {size} bytes that are not one MessagePack value"


def test_extensions_count_as_arrays_do() -> None:
    outcome, _ = decode_bytes(msgpack.packb([1, 0, None, None, [], [msgpack.ExtType(1, b"")] * (CONTAINERS_MAX + 1)]))
    assert isinstance(outcome, Failed)
    assert outcome.message == f"output: more than {CONTAINERS_MAX} arrays and maps"
