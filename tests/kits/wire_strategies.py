"""Hypothesis strategies for all messages: one per class, built from one per part. Used by test_wire.py and by
tests/fuzz, which mutates what they generate.

A new message gets its row in MESSAGES; test_wire.py compares the rows with the table of the wire.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from rota.common import assignments, events, limits, messages, work
from rota.common.columns import Blobs, sparse
from rota.common.outcomes import FoldResults

COUNT = st.integers(0, limits.NOW_MS_MAX)
FLAG = st.booleans()
TEXT = st.text(max_size=20)
BLOB = st.binary(max_size=30)
DIGEST = st.binary(min_size=32, max_size=32)
NAME = st.text("AZaz09_.-", min_size=1, max_size=6).map("n{}".format)
KEY = st.text("aZ0 /:-é字🦀", min_size=1, max_size=6)
MODEL_NAME = NAME.map("model:{}".format) | st.builds("model:{}@{}".format, NAME, st.integers(1, 999_999_999))
TARGET = NAME | MODEL_NAME | st.builds("{}/{}".format, NAME, KEY)
PRIORITY = st.integers(limits.PRIORITY_MIN, limits.PRIORITY_MAX)
PLAIN = st.none() | FLAG | st.integers(-(2**63), 2**64 - 1) | TEXT | BLOB | st.lists(st.integers(0, 9), max_size=3)
MAP = st.dictionaries(TEXT, PLAIN | st.dictionaries(TEXT, PLAIN, max_size=2), max_size=3)
ARGUMENTS = st.dictionaries(NAME, TEXT | st.integers(0, 99) | FLAG | st.none(), max_size=4)


def some(strategy: st.SearchStrategy[Any], size: int = 3) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=size).map(tuple)


REF = st.builds(work.TensorRef, DIGEST, TEXT, some(COUNT))
LIMITS = st.builds(
    work.Limits, st.integers(1, limits.FUEL_MAX), st.integers(1 << 16, limits.MEMORY_BYTES_MAX),
    st.integers(1, limits.TIMEOUT_MS_MAX), st.integers(0, limits.EMITS_MAX), COUNT.map(lambda n: n % (1 << 20)),
    COUNT.map(lambda n: n % (1 << 20)), st.integers(0, limits.PAYLOAD_BYTES_MAX),
    st.integers(0, limits.GROWTH_BYTES_MAX), st.integers(0, limits.TASK_TENSOR_BYTES_MAX),
    st.integers(0, limits.ASKS_MAX), st.integers(1, limits.STEPS_MAX), st.integers(1, limits.FUEL_MAX),
    st.integers(0, limits.CALL_BYTES_MAX),
)  # fmt: skip
CODE = st.builds(
    work.Code, DIGEST, st.sampled_from(work.CODE_KINDS), FLAG, some(st.tuples(NAME, TEXT)), LIMITS, FLAG, FLAG
)
DELAY = st.integers(0, limits.DELAY_MS_MAX)
EMIT = st.builds(work.Emit, TARGET, BLOB, PRIORITY, st.sampled_from(work.EMIT_KINDS), some(REF), DELAY, COUNT)
LOG = some(TEXT)
FUEL = st.integers(0, limits.FUEL_MAX)
STATE_BYTES = st.integers(0, limits.MESSAGE_BYTES_MAX)
OUTCOME = (
    st.builds(work.Done, st.none() | BLOB, st.none() | DIGEST, some(EMIT), LOG, FUEL, some(REF), STATE_BYTES, st.none())
    | st.builds(work.Done, st.none(), st.none() | DIGEST, some(EMIT), LOG, FUEL, st.just(()), STATE_BYTES, TEXT)
) | st.builds(work.Failed, st.sampled_from(work.FAILURE_KINDS), TEXT, LOG, FUEL)
CERTIFICATE = st.sampled_from(("", *work.CERTIFICATES))
PROVENANCE = st.none() | st.builds(
    work.Provenance, st.sampled_from((work.BITWISE, work.RECORDED)), TEXT, DIGEST, CERTIFICATE, TEXT
)
STOPPED = st.sampled_from((None, "timeout", "interrupted", "refused", "faulted", "unrepeatable"))
FOLD_RESULT = st.builds(work.FoldResult, some(OUTCOME), st.none() | BLOB, STOPPED, TEXT, PROVENANCE)


@st.composite
def runs(draw: st.DrawFn) -> messages.TaskRun:
    payloads = draw(st.lists(BLOB, min_size=1, max_size=4).map(tuple))
    count = len(payloads)
    targets = draw(TARGET | st.lists(TARGET, min_size=count, max_size=count).map(tuple))
    tensors = draw(st.none() | st.lists(some(REF), min_size=count, max_size=count).map(tuple))
    return messages.TaskRun.of(targets, draw(PRIORITY), payloads, tensors)


SETTINGS = st.builds(
    messages.LaneSettings, st.sampled_from(("derived", "recorded")), st.integers(1, limits.WINDOW_TASKS_MAX),
    st.integers(1, 1 << 32), st.integers(1, 1 << 32), st.none() | DIGEST,
    st.integers(limits.LANE_BYTES_MIN, limits.LANE_BYTES_MAX), st.integers(1, limits.LANE_AGENTS_MAX),
)  # fmt: skip
REPLY_TO = st.none() | st.builds(work.ReplyTo, COUNT, COUNT, COUNT)


@st.composite
def segments(draw: st.DrawFn) -> assignments.Segment:
    payloads = draw(st.lists(BLOB, max_size=3))
    count = len(payloads)
    turns = draw(st.lists(COUNT, min_size=count, max_size=count).map(tuple))
    tensors = draw(st.lists(some(REF), min_size=count, max_size=count))
    head = draw(st.tuples(st.sampled_from(work.MESSAGE_KINDS), st.none() | TARGET, COUNT, REPLY_TO))
    bounds = draw(st.tuples(st.integers(0, limits.EMITS_MAX), st.integers(0, limits.GROWTH_BYTES_MAX)))
    return assignments.Segment(*head, *bounds, turns, Blobs.of(payloads), sparse(tensors))


@st.composite
def items(draw: st.DrawFn) -> messages.ResultItem:
    head = draw(st.tuples(COUNT, NAME, COUNT, COUNT))
    log, source = draw(LOG), draw(PROVENANCE)
    if draw(FLAG):
        return messages.ResultItem(*head, True, draw(st.none() | BLOB), draw(some(REF)), "", "", log, source)
    kind = draw(st.sampled_from(work.FAILURE_KINDS))
    return messages.ResultItem(*head, False, None, (), kind, draw(TEXT), log, source)


INPUT = st.builds(
    work.TaskInput, COUNT, st.sampled_from(work.MESSAGE_KINDS), st.none() | TARGET, BLOB, COUNT, REPLY_TO, some(REF),
    st.integers(0, limits.EMITS_MAX), st.integers(0, limits.GROWTH_BYTES_MAX),
)  # fmt: skip
STEPS = some(st.builds(work.CallStep, INPUT, TEXT)).map(work.CallSteps.of)
PAST = st.none() | st.builds(work.Past, STEPS, COUNT, FUEL)
FOLD = st.builds(assignments.FoldAssignment, COUNT, TARGET, st.none() | BLOB, some(segments()), some(COUNT), PAST)
POOL = st.sampled_from(("cpu", "gpu"))
MODEL_NUMBERS = st.builds(messages.ModelNumbers, TARGET, DIGEST, TEXT, TEXT, CERTIFICATE, *[COUNT] * 6)
POSITIVE = st.integers(1, limits.NOW_MS_MAX)
PID = st.integers(0, limits.PID_MAX)

HAPPENED = st.one_of(
    st.builds(events.LaneOpened, FLAG), st.builds(events.LanePaused, FLAG), st.builds(events.NameBound, TEXT, DIGEST),
    st.builds(events.LaneMoved, COUNT, DIGEST, COUNT), st.builds(events.TaskFailure, COUNT, COUNT, TARGET, TEXT, TEXT),
    st.builds(events.TaskUndone, TEXT, TEXT, COUNT, COUNT, TARGET, TEXT),
    st.builds(events.WorkerJoined, TEXT, NAME, some(st.tuples(TEXT, TEXT))), st.builds(events.WorkerDraining, TEXT),
    st.builds(events.WorkerLeft, TEXT, TEXT, st.none() | COUNT), st.builds(events.WorkerExpelled, TEXT, TEXT),
    st.builds(events.WorkerHeldUp, TEXT, some(COUNT)), st.builds(events.WorkerPreparing, TEXT, some(TARGET)),
    st.builds(events.JournalChanged, FLAG, TEXT), st.builds(events.OutcomesDiffer, COUNT, TARGET, TEXT),
    st.builds(events.Watching, TEXT), st.builds(events.TextStreamed, COUNT, COUNT, COUNT, TEXT),
    st.builds(events.AskOpened, COUNT, COUNT, TARGET, TARGET | st.just("")),
    st.builds(events.AskAnswered, COUNT, COUNT, TARGET, TEXT),
)  # fmt: skip

MESSAGES: dict[type, st.SearchStrategy[Any]] = {
    messages.Hello: st.builds(messages.Hello, COUNT, TEXT),
    messages.Submit: st.builds(
        messages.Submit, COUNT, NAME, some(runs()), FLAG, st.none() | COUNT, st.none() | COUNT,
        st.sampled_from(work.SUBMIT_KINDS), DELAY,
    ),
    messages.OpenLane: st.builds(messages.OpenLane, COUNT, NAME, SETTINGS, FLAG, st.none() | NAME),
    messages.Deploy: st.builds(
        messages.Deploy, COUNT, NAME, NAME | MODEL_NAME, CODE, FLAG
    ),
    messages.Keep: st.builds(messages.Keep, COUNT, DIGEST, BLOB),
    messages.Cancel: st.builds(messages.Cancel, COUNT, COUNT),
    messages.SetPaused: st.builds(messages.SetPaused, COUNT, NAME, FLAG),
    messages.SetWindow: st.builds(messages.SetWindow, COUNT, NAME, st.integers(1, limits.WINDOW_TASKS_MAX)),
    messages.DeadDrop: st.builds(messages.DeadDrop, COUNT, NAME, some(COUNT)),
    messages.Await: st.builds(messages.Await, COUNT, POSITIVE, POSITIVE),
    messages.Drain: st.builds(messages.Drain, COUNT, FLAG),
    messages.Welcome: st.builds(messages.Welcome, COUNT, COUNT, TEXT),
    messages.Accepted: st.builds(messages.Accepted, COUNT, COUNT, COUNT),
    messages.Answer: st.builds(messages.Answer, COUNT, PLAIN | MAP, COUNT, COUNT),
    messages.Refused: st.builds(messages.Refused, COUNT, TEXT, TEXT, MAP),
    messages.Results: st.builds(messages.Results.of, some(items())),
    messages.Query: st.builds(messages.Query, COUNT, st.sampled_from(messages.QUERIES), ARGUMENTS),
    messages.Register: st.builds(
        messages.Register, TEXT, POOL, st.integers(1, limits.RUN_TASKS_MAX), COUNT, TEXT, PID, MAP, COUNT,
        some(COUNT), st.integers(1, limits.ASSIGNMENTS_MAX),
    ),
    messages.Heartbeat: st.builds(
        messages.Heartbeat, TEXT, COUNT, some(COUNT), some(st.builds(messages.Preparation, COUNT, TARGET, COUNT)),
        some(MODEL_NUMBERS),
    ),
    messages.Streamed: st.builds(
        messages.Streamed, TEXT, some(st.builds(messages.StreamedPiece, COUNT, COUNT, COUNT, TEXT))
    ),
    messages.Completed: st.builds(messages.Completed, TEXT, COUNT, some(FOLD_RESULT).map(FoldResults.of), COUNT),
    messages.Prepared: st.builds(messages.Prepared, TEXT, COUNT, FLAG, MAP, TEXT),
    messages.Goodbye: st.builds(messages.Goodbye, TEXT, FLAG),
    messages.Registered: st.builds(messages.Registered, COUNT, COUNT, some(COUNT)),
    messages.HeartbeatAck: st.builds(messages.HeartbeatAck, COUNT, FLAG),
    messages.Assign: st.builds(messages.Assign, COUNT, DIGEST, some(CODE), some(FOLD)),
    messages.Revoke: st.builds(messages.Revoke, COUNT),
    messages.Prepare: st.builds(messages.Prepare, COUNT, TARGET, CODE),
    messages.Event: st.builds(
        messages.Event, COUNT, COUNT, COUNT, TEXT, HAPPENED
    ),
}  # fmt: skip
