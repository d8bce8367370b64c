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
EXAMPLES: Final = ("echo", "counter", "ask_model", "two_step", "verbs", "failing", "desk")
FLOWS: Final = ("trip",)

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
    def open(self) -> tuple[int, ...]:
        """The turns that the agent has postponed and settles here."""
        emits = self.output[4] if self.output and self.output[1] == 0 else []
        return tuple([emit[6] for emit in emits if len(emit) > 6 and emit[6] != TURN])

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


def postponed(state: bytes | None = None, emits: list[Any] | None = None, waits: str = "") -> list[Any]:
    """Return the output of a task that is postponed, or of a step of a flow that goes on."""
    return [1, 0, state, None, emits or [], [], [], waits]


def ask(target: str, payload: bytes, tensors: tuple[int, ...] = (), deadline_ms: int = 0) -> list[Any]:
    """Return an emitted ask without a priority."""
    return [target, payload, 0, "ask", list(tensors), *([deadline_ms] if deadline_ms else [])]


def settle(example: str, turn: int, payload: bytes, kind: str = "reply", tensors: tuple[int, ...] = ()) -> list[Any]:
    """Return the emit that settles a turn."""
    return [f"{example}/case", payload, 0, kind, list(tensors), 0, turn]


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
    failure = pack(["unknown_model", "model:smollm2"])
    found = [
        Case(f"{len(text)} characters", "ask_model", task(text.encode()), None, _asks_model(text))
        for text in ("", "Why is the sky blue?", "ü" * 20, "a" * 40, "b" * 300)
    ]
    return [
        *found,
        Case(
            "reply",
            "ask_model",
            task(pack(answer), "reply", reply_to=reply_to),
            None,
            done(None, None, [settle("ask_model", 5, b"Blue.")]),
        ),
        Case(
            "failure",
            "ask_model",
            task(failure, "failure", reply_to=reply_to),
            None,
            done(None, None, [settle("ask_model", 5, failure, "failure")]),
        ),
    ]


def _asks_model(text: str) -> list[Any]:
    return postponed(None, [ask("model:smollm2", model_call(text))])


def _two_step() -> list[Case]:
    first, second = "one", "two" * 20
    middle = {"step": 2, "turn": 4, "first": first}
    end = {"step": 3, "first": first, "second": second}
    reply_to = (9, 5, 0)
    return [
        Case(
            "begin",
            "two_step",
            task(b"start"),
            None,
            postponed(pack({"step": 1, "turn": TURN}), [ask("echo/two_step", b"start")]),
        ),
        Case(
            "first answer",
            "two_step",
            task(first.encode(), "reply", reply_to=reply_to),
            pack({"step": 1, "turn": 4}),
            done(pack(middle), None, [ask("counter/two_step", first.encode())]),
        ),
        Case(
            "second answer",
            "two_step",
            task(second.encode(), "reply", reply_to=reply_to),
            pack(middle),
            done(pack(end), None, [settle("two_step", 4, pack(end))]),
        ),
        Case(
            "failure",
            "two_step",
            task(pack(["trap", "unreachable in rota_step"]), "failure", reply_to=reply_to),
            pack(middle),
            done(None, None, [settle("two_step", 4, pack(["step_2", "trap: unreachable in rota_step"]), "failure")]),
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


def _desk() -> list[Case]:
    waiting, asked_in = pack(5), 4
    answer = {"kind": "reply", "sender": "echo/x", "reply_to": (6, asked_in, 0), "tensors": TENSORS}
    failure = task(pack(["trap", "unreachable"]), "failure", reply_to=(6, asked_in, 0))
    settled = settle("desk", 5, pack({"waited": 5}))
    refused = settle("desk", 5, pack(["refused", "the desk is closed"]), "failure")
    passed = ["echo/y", pack([5]), 3, "ask", [], 60_000, 5]
    transferred = ["echo/x", b"transfer", 0, "ask", [0, 1], 0, TURN]
    own = settle("desk", asked_in, b"fine", "reply", (0, 1))
    failed_own = settle("desk", asked_in, pack(["trap", "unreachable"]), "failure")
    asked = ask("echo/x", b"what?", (0, 1), 30_000)
    return [
        Case("ask", "desk", task(b"what?", "ask", tensors=TENSORS), None, postponed(None, [asked])),
        Case("reply", "desk", task(b"fine", **answer), None, done(None, None, [own])),
        Case("failure", "desk", failure, None, done(None, None, [failed_own])),
        Case("wait", "desk", task(b"wait"), None, postponed(pack(TURN))),
        Case("answer", "desk", task(b"answer"), waiting, done(pack(None), b"answered", [settled])),
        Case("refuse", "desk", task(b"refuse"), waiting, done(pack(None), None, [refused])),
        Case("pass", "desk", task(b"pass"), waiting, done(pack(None), None, [passed])),
        Case("transfer", "desk", task(b"transfer", tensors=TENSORS), None, postponed(None, [transferred])),
    ]


CASES: Final = (*_echo(), *_counter(), *_ask_model(), *_two_step(), *_verbs(), *_failing(), *_desk())


class FlowCase(NamedTuple):
    """One call of a flow: its messages, and what each must give. In an output that goes on, `waits` is the language's
    own. The last output may be a failure that begins as this one, since a language may add where it was.
    """

    name: str
    example: str
    tasks: tuple[TaskInput, ...]
    outputs: tuple[list[Any], ...]
    log: tuple[str, ...]


_PLAN: Final = {"generate": {"text": " walk.", "stop": "end"}}
_HOTEL_TENSOR: Final = TensorRef(bytes([3] * 32), "int8", (1,))


def _step(
    place: int, payload: bytes, reply_to: tuple[int, int, int] | None, kind: str = "reply", **more: Any
) -> TaskInput:
    """Return message `place` of the call that began in `TURN`: turn and time go on by ten and a hundred."""
    return task(payload, kind, reply_to=reply_to, turn=TURN + 10 * place, now_ms=NOW_MS + 100 * place, **more)


def _trip_begins(city: str) -> list[Any]:
    hotel = ["hotel/best", pack({"city": city, "nights": 2}), 2, "ask", [], 30_000]
    plan = pack({"generate": {"max_tokens": 32, "prompt": f"A day in {city}:"}})
    return postponed(None, [ask("weather/today", city.encode()), hotel, ask("model:smollm2", plan)])


def _trip() -> list[FlowCase]:
    """The calls of trip: answers out of order; a desk that fails, then a third; one that fails for good."""
    begin = task(b"Bonn", "ask", sender="desk/x", tensors=TENSORS)
    hotel = _step(1, b"Inn", (30, TURN, 1), tensors=(_HOTEL_TENSOR,))
    plan, weather = _step(2, pack(_PLAN), (31, TURN, 2)), _step(3, b"rain", (29, TURN, 0))
    gathered = (begin, hotel, plan, weather)
    asked_in, goes_on = TURN + 30, postponed()
    found = [["log/main", pack(["found", "Inn"]), 0, "tell", []]]
    books = [ask(f"booking/{desk}", b"Inn", (2,)) for desk in ("a", "b")]
    so_far = (_trip_begins("Bonn"), goes_on, goes_on, postponed(None, [*found, *books]))

    def trip(booked: Any) -> list[Any]:
        return [*done(None, pack({"weather": "rain", "plan": " walk.", "booked": booked})), [0, 1]]

    second = _step(4, pack(["room", 3]), (33, asked_in, 2))
    no_room = _step(4, pack(["error", "full: no room"]), (32, asked_in, 1), "failure")
    timer = _step(5, pack(0), None, "timer", sender="trip/~7")
    late = _step(6, pack("late"), (33, asked_in, 2))
    third = _step(7, pack({"desk": "c"}), (36, TURN + 50, 0))
    sleeps = postponed(None, [["trip/~7", pack(0), 0, "timer", [], 250]])
    asks_again = postponed(None, [ask("booking/c", pack(["error", "full: no room"]))])
    no_weather = _step(1, pack(["unknown_agent", "weather/today"]), (29, TURN, 0), "failure")
    log = ("a trip to Bonn",)
    return [
        FlowCase("the second desk answers", "trip", (*gathered, second), (*so_far, trip(["room", 3])), log),
        FlowCase(
            "a third desk",
            "trip",
            (*gathered, no_room, timer, late, third),
            (*so_far, sleeps, asks_again, goes_on, trip({"desk": "c"})),
            log,
        ),
        FlowCase(
            "no weather",
            "trip",
            (begin, no_weather),
            (_trip_begins("Bonn"), failed("AskFailed", "unknown_agent: weather/today")),
            log,
        ),
    ]


FLOW_CASES: Final = tuple(_trip())
