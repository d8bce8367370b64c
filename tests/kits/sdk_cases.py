"""What the examples of every SDK do: inputs and the outputs that all languages must give, byte for byte. PURE.

sdk/README.md says the same in words. A case is one message: an example, the state before it, the task, and what comes
of it. Outputs are packed here with msgpack, from the arrays of docs/AGENTS.md, so no SDK is its own judge.

A case that fails by `crash`, `deep` or `spin` has no bytes of its own in all languages: a language says in
sdk_languages.py how its programs end there.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import msgpack

from rota.common.work import TaskInput, TensorRef

NOW_MS: Final = 1_700_000_000_000
LANE_SEED: Final = bytes(range(32))
TURN: Final = 7
TENSORS: Final = (
    TensorRef(bytes([1] * 32), "uint8", (4,)),
    TensorRef(bytes([2] * 32), "float32", (2, 3)),
)
EXAMPLES: Final = ("echo", "counter", "ask_model", "two_step", "verbs", "failing")

# What the payload of `failing` asks for where the languages differ.
OWN_ENDS: Final = ("crash", "deep", "spin")


class Case(NamedTuple):
    """One message to an example, and what it must give.

    `output`: the array that `rota_step` returns; for a task that fails with `fail`, [1, 1, code, message, []]. None:
    the language decides (`OWN_ENDS`). `log`: the lines that the task leaves.
    """

    name: str
    example: str
    task: TaskInput
    state: bytes | None
    output: list[Any] | None
    log: tuple[str, ...] = ()

    @property
    def packed(self) -> bytes:
        """The output as bytes."""
        return pack(self.output)


def pack(value: Any) -> bytes:
    """Return one MessagePack value as an SDK writes it."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def entropy_of(turn: int) -> bytes:
    """Return the entropy of a turn, as the executor derives it from `LANE_SEED`."""
    from rota.common.digests import entropy

    return entropy(LANE_SEED, turn)


def task(payload: bytes, kind: str = "tell", **changes: Any) -> TaskInput:
    """Return a task as the broker issues it."""
    plain = TaskInput(TURN, "tell", None, payload, NOW_MS, None, (), 64, 1 << 20)
    return plain._replace(kind=kind, **changes)  # type: ignore[arg-type]


def done(state: bytes | None = None, result: bytes | None = None, emits: list[Any] | None = None) -> list[Any]:
    """Return the output of a task that is done, without tensors in its result."""
    return [1, 0, state, result, emits or [], []]


def failed(code: str, message: str) -> list[Any]:
    """Return the output of a task that called `fail`."""
    return [1, 1, code, message, []]


def ask(target: str, payload: bytes) -> list[Any]:
    """Return an emitted ask without options."""
    return [target, payload, 0, "ask", []]


def _echo() -> list[Case]:
    payloads = {
        "nothing": b"",
        "text": b"hello",
        "not ascii": "grüße, 世界 🎉".encode(),
        "not text": bytes([0, 255, 192, 193, 10]),
        "bin16": bytes(range(256)) * 3,
        "bin32": b"x" * 70_000,
    }
    found = [Case(name, "echo", task(payload), None, done(None, payload)) for name, payload in payloads.items()]
    with_tensors = [*done(None, b"two"), [0, 1]]
    kept = Case("a state is left alone", "echo", task(b"x"), pack({"a": 1}), done(None, b"x"))
    asked = task(b"hello", "ask", sender="counter/x")
    return [
        *found,
        kept,
        Case("asked", "echo", asked, None, done(None, b"hello")),
        Case("tensors", "echo", task(b"two", tensors=TENSORS), None, with_tensors),
    ]


def _counter() -> list[Case]:
    befores = (None, 0, 1, 126, 127, 128, 254, 255, 256, 65_534, 65_535, 2**31 - 1, 2**32 - 2, 2**32 - 1, 2**53 - 2)
    negatives = (-1, -2, -33, -34, -129, -130, -32_769, -32_770, -(2**31) - 1, -(2**31) - 2, -(2**53) + 1)
    return [
        Case(
            f"after {before}",
            "counter",
            task(b"+"),
            None if before is None else pack(before),
            done(pack((before or 0) + 1), str((before or 0) + 1).encode()),
        )
        for before in (*befores, *negatives)
    ]


def model_call(text: str) -> bytes:
    """Return the payload of the ask of `ask_model`."""
    messages = [{"role": "user", "content": text}]
    return pack({"generate": {"max_tokens": 64, "messages": messages}})


def _ask_model() -> list[Case]:
    answer = {"generate": {"text": "Blue.", "stop": "end", "usage": {"tokens": 3, "seconds": 0.25}, "more": [None]}}
    reply_to = (9, 5, 0)
    found = [
        Case(f"{len(text)} characters", "ask_model", task(text.encode()), None, _asks_model(text))
        for text in ("", "Why is the sky blue?", "ü" * 20, "a" * 40, "b" * 300)
    ]
    return [
        *found,
        Case("reply", "ask_model", task(pack(answer), "reply", reply_to=reply_to), None, done(None, b"Blue.")),
        Case(
            "failure",
            "ask_model",
            task(pack(["unknown_model", "model:smollm2"]), "failure", reply_to=reply_to),
            None,
            done(None, b"unknown_model: model:smollm2"),
        ),
    ]


def _asks_model(text: str) -> list[Any]:
    return done(None, b"asked", [ask("model:smollm2", model_call(text))])


def _two_step() -> list[Case]:
    first, second = "one", "two" * 20
    middle = {"step": 2, "first": first}
    end = {"step": 3, "first": first, "second": second}
    reply_to = (9, 5, 0)
    return [
        Case(
            "begin",
            "two_step",
            task(b"start"),
            None,
            done(pack({"step": 1}), b"asked", [ask("echo/two_step", b"start")]),
        ),
        Case(
            "first answer",
            "two_step",
            task(first.encode(), "reply", reply_to=reply_to),
            pack({"step": 1}),
            done(pack(middle), None, [ask("counter/two_step", first.encode())]),
        ),
        Case(
            "second answer",
            "two_step",
            task(second.encode(), "reply", reply_to=reply_to),
            pack(middle),
            done(pack(end), pack(end)),
        ),
        Case(
            "failure",
            "two_step",
            task(pack(["trap", "unreachable in rota_step"]), "failure", reply_to=reply_to),
            pack(middle),
            failed("step_2", "trap: unreachable in rota_step"),
        ),
    ]


VALUES: Final = (
    None, True, False, 0, 127, 128, 65_536, 2**53 - 1, -1, -32, -33, -(2**53) + 1, 0.5, -1.5e300, "", "text",
    "ü" * 20, "s" * 300, "t" * 70_000, b"", b"\x00\xff", b"b" * 300, b"c" * 70_000, [], [1, [2, [3, []]]],
    list(range(20)), {}, {"b": 1, "a": {"list": [None, True, 0.25]}}, {f"key{n:02}": n for n in range(20)},
)  # fmt: skip


def _verbs() -> list[Case]:
    found: list[Case] = []
    for number, value in enumerate(VALUES):
        name = f"value {number}: {type(value).__name__}"
        found.append(
            Case(name, "verbs", task(pack(value)), None, _verbs_output(value, None, 0), ("tell from outside",))
        )
    sent = task(pack([1]), "ask", sender="desk/main", tensors=TENSORS)
    same = task(pack({"n": 1}))
    timer = task(b"again", "timer", sender="verbs/case")
    answer = task(b"fine", "reply", sender="echo/x", reply_to=(9, 7, 1))
    no_answer = task(pack(["unknown_agent", "echo/x"]), "failure", sender="echo/x", reply_to=(9, 7, 1))
    return [
        *found,
        Case("from an agent, with tensors", "verbs", sent, None, _verbs_output([1], None, 2), ("ask from desk/main",)),
        Case(
            "the same state",
            "verbs",
            same,
            pack({"n": 1}),
            _verbs_output({"n": 1}, {"n": 1}, 0),
            ("tell from outside",),
        ),
        Case("timer", "verbs", timer, pack([2]), done(None, b"again"), ("timer from verbs/case",)),
        Case("an answer", "verbs", answer, None, done(None, b"fine"), ("reply from echo/x",)),
        Case("a failed answer", "verbs", no_answer, None, done(None, no_answer.payload), ("failure from echo/x",)),
    ]


def _verbs_output(value: Any, before: Any, tensors: int) -> list[Any]:
    chosen = list(range(tensors))
    state = None if value == before and value is not None else pack(value)
    if value is None:
        state = None  # none before, none after
    asked = pack([TURN, NOW_MS, "verbs/case"])
    emits = [
        ["log/main", as_payload(value), -3, "tell", chosen],
        ["echo/x", asked, 7, "ask", []],
        ["verbs/case", b"again", 0, "timer", [], 250],
    ]
    return done(state, pack({"asked": 1, "entropy": entropy_of(TURN), "state": before}), emits)


def as_payload(value: Any) -> bytes:
    """Return a value as a payload: bytes and text as they are, anything else as MessagePack."""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else pack(value)


def _failing() -> list[Case]:
    found = [
        Case("echo", "failing", task(b"all is well"), None, done(None, b"all is well")),
        Case("fail", "failing", task(b"fail"), None, failed("asked_to_fail", "the payload said so"), ("before it",)),
    ]
    return [*found, *(Case(end, "failing", task(end.encode()), None, None, ("before it",)) for end in OWN_ENDS)]


CASES: Final = (*_echo(), *_counter(), *_ask_model(), *_two_step(), *_verbs(), *_failing())
