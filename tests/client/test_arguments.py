"""Every method of both clients with invalid values: a typed error names the argument, and nothing is sent. There is no
broker, so a value that is not refused ends in NotReachable, which is not a `LocalError`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from rota.client import AsyncClient, Client, TaskRow
from rota.client.client import Batch, Handle
from rota.client.options import (
    AskNames,
    AskOptions,
    DeployNames,
    DeployOptions,
    GenerateNames,
    LaneNames,
    LaneOptions,
    MapNames,
    MapOptions,
    ModelNames,
    RetryNames,
    RunsNames,
    SubmitNames,
    SubmitOptions,
    generate_options,
)
from rota.common.errors import BadPayload, BadTarget, CodeError, ConfigError, LocalError
from rota.common.messages import LaneSettings
from rota.common.text_calls import NEW_CONVERSATION, ChatMessage, GenerateCall
from rota.common.text_requests import call_of

Call = tuple[str, tuple[Any, ...], dict[str, Any], type[LocalError]]

_SUBMIT_OPTIONS: dict[str, tuple[list[Any], type[LocalError]]] = {
    "lane": ([None, 5, "", b"main", "a b"], BadTarget),
    "priority": ([None, "1", 1.5, True, 8, -9], BadPayload),
    "wait": ([None, 1, "yes"], LocalError),
    "number": (["1", 0, -1, 1 << 52, True], LocalError),
    "now_ms": (["now", -1, 1.5, 1 << 53], LocalError),
    "block": ([None, 1], LocalError),
    "timeout_s": (["1", -1, 0, math.nan, True], ConfigError),
    "sent": ([5], LocalError),
    "no_such_option": ([1], ConfigError),
}
_SEQS: list[Any] = [None, "x", 0, -1, 1.5, True, b"1", [1], object(), 1 << 53]
_LANES: list[Any] = [None, 5, "", "a/b", b"main"]
_TIMES: list[Any] = ["1", -1, math.nan, True, [1]]
_NOT_SEVERAL: list[Any] = [None, 5, "text", b"bytes"]
_DIGEST = bytes(32)


def _calls_of_tasks() -> list[Call]:
    calls: list[Call] = []

    def add(method: str, arguments: list[tuple[Any, ...]], error: type[LocalError], **named: Any) -> None:
        calls.extend((method, one, named, error) for one in arguments)

    for name, (values, error) in _SUBMIT_OPTIONS.items():
        for value in values:
            add("submit", [("echo", b"")], error, **{name: value})
            add("submit_many", [("echo", [b""])], error, **{name: value})
            add("ask", [("echo", b"")], error, **{name: value})
            add("ask_many", [("echo", [b""])], error, **{name: value})
            if name not in ("priority", "sent"):
                add("submit_runs", [([TaskRow("echo", [b""])],)], error, **{name: value})
            if name in ("lane", "wait", "number", "timeout_s"):
                add("retry", [(1,)], error, **{name: value})
    for value in ("1", -1, 0, math.nan, True, math.inf, 1e-4, 1e12):
        add("ask", [("echo", b"")], ConfigError, deadline_s=value)
        add("ask_many", [("echo", [b""])], ConfigError, deadline_s=value)
    add("submit", [("echo", b"")], ConfigError, deadline_s=1)
    add("ask", [(None,), ("a b",)], BadTarget)
    add("ask_many", [("echo", value) for value in _NOT_SEVERAL], BadPayload)
    add("submit_runs", [([TaskRow("echo", [b""])],)], ConfigError, priority=1)
    add("retry", [(1,)], ConfigError, priority=1)
    add("submit", [(None,), (5,), (b"echo",), ("a b",), (["echo"],), ("",)], BadTarget)
    add("submit", [("echo", object()), ("echo", {1, 2}), ("model:m", 5), ("echo", 1 << 64)], BadPayload)
    add("submit_many", [(None, [b""]), (5, [b""]), ([None], [b""]), (["a b"], [b""])], BadTarget)
    add("submit_many", [("echo", value) for value in _NOT_SEVERAL], BadPayload)
    add("submit_many", [(["echo"], [b"", b""])], BadPayload)
    add("submit_runs", [(value,) for value in [*_NOT_SEVERAL, [5], [("echo", [b""])], []]], BadPayload)
    add("submit_runs", [([TaskRow("echo", value)],) for value in _NOT_SEVERAL], BadPayload)
    add("submit_runs", [([TaskRow(None, [b""])],), ([TaskRow("a b", [b""])],)], BadTarget)  # type: ignore[arg-type]
    add("submit_runs", [([TaskRow("echo", [b""], "1")],)], BadPayload)  # type: ignore[arg-type]
    add("map", [(None, [b""]), ("a b", [b""]), (["echo"], [b""])], BadTarget)
    add("map", [("echo", value) for value in _NOT_SEVERAL], BadPayload)
    for name, values in {"ordered": [1], "batch": [0, "1", None, 65_537], "in_flight": [0, None],
                         "return_failures": [None], "progress": [5]}.items():  # fmt: skip
        for value in values:
            add("map", [("echo", [b""])], LocalError, **{name: value})
    for method in ("result", "outcome", "cancel", "retry"):
        add(method, [(seq,) for seq in _SEQS], LocalError)
    for method in ("result", "outcome"):
        add(method, [(1, time) for time in _TIMES], ConfigError)
    add("results", [(seq, 1) for seq in _SEQS], LocalError)
    add("results", [(1, count) for count in (None, "x", -1, 1.5, 1 << 40)], BadPayload)
    add("results", [(1, 1, time) for time in _TIMES], ConfigError)
    add("as_completed", [(tasks,) for tasks in _NOT_SEVERAL], BadPayload)
    add("as_completed", [([seq],) for seq in _SEQS], LocalError)
    add("as_completed", [([1], time) for time in _TIMES], ConfigError)
    return calls


_USER = {"role": "user", "content": "Hello"}
_TEXT_OPTIONS: dict[str, tuple[list[Any], type[LocalError]]] = {
    "max_tokens": ([0, -1, 1.5, True, "1"], BadPayload),
    "temperature": ([-1, math.nan, math.inf, "1", True], BadPayload),
    "top_k": ([-1, 1.5], BadPayload),
    "top_p": ([0, 1.1], BadPayload),
    "min_p": ([-0.1, 2], BadPayload),
    "repetition_penalty": ([0, -1], BadPayload),
    "seed": ([-1, 1 << 63, 1.0], BadPayload),
    "stop": (["end", [""], [5], ["a"] * 17], BadPayload),
    "stop_tokens": ([5, [-1]], BadPayload),
    "logprobs": ([-1, 21, True], BadPayload),
    "output": ([5, {}, {"regex": ""}, {"json_schema": "["}, {"choices": []}, {"xml": "a"}], BadPayload),
    "lane": ([None, ""], BadTarget),
    "priority": ([None, 8], BadPayload),
    "number": (["1", 0], LocalError),
    "now_ms": ([-1], LocalError),
    "block": ([None], LocalError),
    "timeout_s": ([0, "1"], ConfigError),
    "temprature": ([1], ConfigError),
}


def _calls_of_text() -> list[Call]:
    calls: list[Call] = []

    def add(method: str, arguments: list[tuple[Any, ...]], error: type[LocalError], **named: Any) -> None:
        calls.extend((method, one, named, error) for one in arguments)

    for name, (values, error) in _TEXT_OPTIONS.items():
        for value in values:
            add("generate", [("m", "a")], error, **{name: value})
            add("chat", [("m",)], error, **{name: value})
    add("generate", [(None, "a"), (5, "a"), ("a b", "a"), ("a/b", "a")], BadTarget)
    add("generate", [("m", ""), ("m", 5), ("m", b"a"), ("m",), ("m", "\ud800")], BadPayload)
    add("generate", [("m", "a")], BadPayload, messages=[_USER])
    add("generate", [("m", "a")], BadPayload, conversation=bytes(32))
    for messages in ([], [5], _USER, [{"role": "boss", "content": ""}], [{"role": "user"}]):
        add("generate", [("m",)], BadPayload, messages=messages)
    for head in (b"short", "text", 5):
        add("generate", [("m",)], BadPayload, messages=[_USER], conversation=head)
        add("chat", [("m",)], BadPayload, conversation=head)
    add("generate", [("m",)], BadPayload, messages=[{"role": "user", "content": "a" * (1 << 20)}])
    add("chat", [("m",)], BadPayload, system=5)
    add("chat", [("m",)], BadPayload, system="Be brief.", conversation=bytes(32))
    add("chat", [(5,), ("a b",)], BadTarget)
    for method in ("embed", "classify"):
        add(
            method,
            [("m", texts) for texts in (None, 5, "text", b"a", [], [5], ["\ud800"], ["a" * (1 << 20)])],
            BadPayload,
        )
        add(method, [(5, ["a"]), ("a/b", ["a"])], BadTarget)
        add(method, [("m", ["a"])], BadPayload, truncate=1)
        add(method, [("m", ["a"])], ConfigError, wait=True)
        add(method, [("m", ["a"])], ConfigError, timeout_s=0)
    for top in (0, True, "1"):
        add("classify", [("m", ["a"])], BadPayload, top=top)
    return calls


def _calls_of_code_and_lanes() -> list[Call]:
    calls: list[Call] = []

    def add(method: str, arguments: list[tuple[Any, ...]], error: type[LocalError], **named: Any) -> None:
        calls.extend((method, one, named, error) for one in arguments)

    add("dead_drop", [(lane,) for lane in _LANES], BadTarget)
    add("dead_drop", [("main", [seq]) for seq in _SEQS], LocalError)
    add("dead_drop", [("main", seqs) for seqs in _NOT_SEVERAL], BadPayload)
    add("deploy", [(None, b""), (5, b""), ("a/b", b""), ("", b"")], BadTarget)
    add("deploy", [("a", None), ("a", 5), ("a", "no such file"), ("a", "zero\0byte"), ("a", [b""])], CodeError)
    add("deploy", [("a", b"", kind) for kind in (None, 5, "model", "other", ["agent"])], CodeError)
    add("deploy_model", [(None, _DIGEST), (5, _DIGEST), ("a/b", _DIGEST)], BadTarget)
    add("deploy_model", [("m", digest) for digest in (None, 5, "", b"short", _DIGEST.hex())], CodeError)
    add("deploy_model", [(name, _DIGEST) for name in ("m@0", "m@", "m@1@2", "@1", "m@1/x")], BadTarget)
    add("deploy_model", [("m", _DIGEST)], ConfigError, reuse=True)
    add("deploy_model", [("m", _DIGEST)], LocalError, recorded=1)
    add("deploy", [("a", b"")], CodeError, recorded=True)
    for method, first in (("deploy", b""), ("deploy_model", _DIGEST)):
        for name, values, error in (
            ("lane", _LANES, BadTarget), ("check", [None, 1], LocalError), ("number", ["1", 0], LocalError),
            ("timeout_s", [*_TIMES, 0], ConfigError), ("code_limits", [5, {"fuel": 1}, (1,)], CodeError),
        ):  # fmt: skip
            for value in values:  # type: ignore[attr-defined]
                add(method, [("a", first)], error, **{name: value})
    for name, value in (("reuse", None), ("exports", 5), ("exports", {"call": 5}), ("exports", {5: "call"})):
        add("deploy", [("a", b"")], LocalError, **{name: value})
    for method in ("pause", "release", "wait_idle", "open_lane"):
        add(method, [(lane,) for lane in _LANES], BadTarget)
    for name, values in {"paused": [None, 1], "policy": [None, "other", 5], "window": [None, 0, "1", object()],
                         "tasks_max": [None, 0, "1"], "bytes_max": [None, "1", -1],
                         "agents_max": [None, "1"], "odd": [1], "starvation_passes": [None, "1"],
                         "seed": [5, b"short", "text"], "deploys_from": [5, "a/b"]}.items():  # fmt: skip
        for value in values:
            add("open_lane", [("one",)], LocalError, **{name: value})
    add("set_window", [(lane, 1) for lane in _LANES], BadTarget)
    add("set_window", [("main", window) for window in (None, 0, "1", 1.5, 65_537)], LocalError)
    add("drain", [(None,), (1,), ("yes",)], LocalError)
    add("query", [(None,), (5,), (b"status",)], LocalError)
    add("query", [("task",)], LocalError, seq=object())
    add("digest", [(object(),)], LocalError)
    for time in _TIMES:
        add("wait_idle", [()], ConfigError, timeout_s=time)
        add("events", [()], ConfigError, timeout_s=time)
    add("events", [(5,), ("task",), ([5],), (["nothing"],)], LocalError)
    return calls


CALLS = _calls_of_tasks() + _calls_of_text() + _calls_of_code_and_lanes()


def _judge(call: Call, error: BaseException | None) -> list[str]:
    """Empty if a call was refused correctly, else what happened instead."""
    if isinstance(error, call[3]) and isinstance(error, LocalError):
        return []
    return [f"{call[0]}{call[1]!r}{call[2]!r}: {type(error).__name__} {error}"]


def test_the_blocking_client_refuses_by_name(run_dir: Path) -> None:
    """Goal: no error from inside reaches a caller. Method: each call of the table."""
    wrong: list[str] = []
    with Client(run_dir, contact_s=0) as client:
        for call in CALLS:
            try:
                found = getattr(client, call[0])(*call[1], **call[2])
                list(found if hasattr(found, "__next__") else ())
            except Exception as error:
                wrong += _judge(call, error)
            else:
                wrong += _judge(call, None)
    assert "\n".join(wrong) == ""


def test_the_asyncio_client_refuses_by_name(run_dir: Path) -> None:
    """Goal: the same of the other shell. Method: the same table, in a loop."""
    wrong: list[str] = []

    async def refuse_all() -> None:
        async with AsyncClient(run_dir, contact_s=0) as client:
            for call in CALLS:
                try:
                    found = getattr(client, call[0])(*call[1], **call[2])
                    if hasattr(found, "__anext__"):
                        async for _ in found:
                            break
                    else:
                        await found
                except Exception as error:
                    wrong.extend(_judge(call, error))
                else:
                    wrong.extend(_judge(call, None))

    asyncio.run(refuse_all())
    assert "\n".join(wrong) == ""


@pytest.mark.parametrize("made", [Client, AsyncClient])
def test_a_client_refuses_wrong_settings(made: Callable[..., Any], run_dir: Path) -> None:
    """Goal: as above, of the constructor. Method: one wrong setting at a time."""
    for time in [*_TIMES, 0]:
        with pytest.raises(ConfigError, match="timeout_s"):
            made(run_dir, timeout_s=time)
    for time in _TIMES:
        with pytest.raises(ConfigError, match="contact_s"):
            made(run_dir, contact_s=time)
    for where in (5, b"folder", ["folder"]):
        with pytest.raises(ConfigError, match="where"):
            made(where)
    with pytest.raises(ConfigError, match="tensors"):
        made(run_dir, tensors=5)
    for producer in (5, "", "x" * 65, b"name"):
        with pytest.raises(BadTarget, match="producer"):
            made(run_dir, producer=producer)


def test_handles_and_batches_refuse_wrong_times(run_dir: Path) -> None:
    """Goal: as above, of what a submit returns. Method: a handle and a batch of a client without a broker."""
    with Client(run_dir, contact_s=0) as client:
        handle, batch = Handle(client, 1), Batch(client, ((1, 2),))
        for time in _TIMES:
            for method in (handle.result, handle.outcome, batch.results, batch.outcomes, batch.as_completed):
                with pytest.raises(ConfigError, match="timeout_s"):
                    method(timeout_s=time)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "names", "settled"),
    [
        (SubmitOptions, (SubmitNames, RunsNames, RetryNames), ()),
        (AskOptions, (AskNames, SubmitNames), ()),
        (MapOptions, (MapNames,), ()),
        (DeployOptions, (DeployNames, ModelNames), ("kind",)),
    ],
)
def test_what_may_be_named_is_what_there_is(options: Any, names: tuple[Any, ...], settled: tuple[str, ...]) -> None:
    """Goal: TypedDicts and dataclasses stay one. Method: compare names and types."""
    there = {field.name: field.type for field in fields(options) if field.name not in settled}
    whole, *parts = [{name: hint.__forward_arg__ for name, hint in one.__annotations__.items()} for one in names]
    assert whole == there
    for part in parts:
        assert part.items() < whole.items()


def test_a_handle_waits_until_its_deadline_and_longer(run_dir: Path) -> None:
    """Goal: an ask with a long deadline does not time out before it. Method: the patience of its handle."""
    with Client(run_dir, timeout_s=5) as client:
        for deadline_s, patience_s in ((None, None), (600, 605)):
            assert client._operations.patience_s(AskOptions(deadline_s=deadline_s)) == patience_s
    assert AskOptions(deadline_s=1.5).deadline_ms == 1_500


def test_what_a_generate_task_can_be_told_is_what_its_payload_has() -> None:
    """Goal: no field of the payload is out of reach, and no name means nothing. Method: compare the names."""
    submit = [name for name in SubmitNames.__annotations__ if name not in ("wait", "sent")]
    assert sorted([*GenerateCall._fields, *submit]) == sorted(["prompt", *GenerateNames.__annotations__])
    fields, options = generate_options({"prompt": "a", "seed": 0, "stop": None, "lane": "two"})
    assert (call_of(fields), options) == (GenerateCall(prompt="a"), SubmitOptions(lane="two"))
    said = [ChatMessage("user", "a")]
    assert call_of({"messages": said, "conversation": NEW_CONVERSATION}).conversation == NEW_CONVERSATION
    assert call_of({"messages": said, "conversation": None}).conversation is None


def test_a_lane_is_opened_with_what_its_settings_are() -> None:
    """Goal: as above, of lanes, whose settings are part of the protocol. Method: compare names and types with those."""
    named = {name: hint.__forward_arg__ for name, hint in LaneNames.__annotations__.items()}
    rest = {field.name: field.type for field in fields(LaneOptions) if field.name != "settings"}
    assert list(named) == [*LaneSettings._fields, *rest]
    assert {name: named[name] for name in rest} == rest
    options = LaneOptions.named({"window": 7, "paused": True})
    assert (options.settings, options.paused) == (LaneSettings(window=7), True)
