"""What an agent's handler gets: the message, the state, and the verbs. See docs/SDK.md. flow.py has what a flow gets.

    from rota.agent import Context

    def agent(ctx: Context) -> None:
        ctx.state = (ctx.state or 0) + 1
        ctx.reply(str(ctx.state))

The import is for the editor's sake; a handler works without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from rota.agent.messagepack import pack, unpack
from rota.agent.tensors import NewTensors, Tensor

ABI_VERSION: Final = 1
PRIORITIES: Final = range(-8, 8)
_ONE_ANSWER: Final = "a message gets a reply, or is postponed: then a later task gives it by ctx.settle(turn, ...)"
_is_target: Final = re.compile(  # as common/targets.py has it
    r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?:/[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,200})?"
    r"|model:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(?:@[1-9][0-9]{0,8})?)\Z"
).match


class Fail(BaseException):
    """Raised by `Context.fail`, and not an `Exception`, so that a handler's `except Exception` lets it through."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


class ReplyTo(NamedTuple):
    """What a reply or failure answers: `emit` is what `ask` returned in the turn `asked_in` of this agent."""

    turn: int
    """The turn of the task that was asked."""
    asked_in: int
    emit: int


class Message:
    """One message to the agent; the same in every replay."""

    __slots__ = ("_value", "address", "entropy", "kind", "now_ms", "payload", "reply_to", "sender", "tensors", "turn")

    kind: str
    """`tell`, `ask`, `reply`, `failure` or `timer`."""
    sender: str | None
    """Address of the agent that sent it; None: it came from outside."""
    payload: bytes
    turn: int
    """The task's place in its lane, 1 or more."""
    now_ms: int
    """Milliseconds since 1970 when the input arrived from which this task descends."""
    entropy: bytes
    """32 random bytes. `random` is seeded with them; `secrets`, `uuid` and `os.urandom` derive from them."""
    reply_to: ReplyTo | None
    """What a `reply` or `failure` answers."""
    tensors: tuple[Tensor, ...]
    address: str
    """The agent's own: `name` or `name/key`."""

    def __init__(self, fields: Sequence[Any], value: tuple[Any] | None = None, first_tensor: int = 0) -> None:
        """Take the fields of the ABI's input but `version` and `state` (docs/AGENTS.md). `value`: see `step`;
        `first_tensor`: the index of its first tensor, in a flow behind those of the messages before.
        """
        self._value = value
        (
            self.kind,
            self.sender,
            self.payload,
            self.turn,
            self.now_ms,
            self.entropy,
            reply_to,
            tensors,
            self.address,
        ) = fields
        self.reply_to = None if reply_to is None else ReplyTo(*reply_to)
        self.tensors = tuple(
            [
                Tensor(index, name, dtype, tuple(shape))
                for index, (name, dtype, shape) in enumerate(tensors, first_tensor)
            ]
            if tensors
            else ()
        )

    @property
    def text(self) -> str:
        """The payload as UTF-8. Raises `UnicodeDecodeError`."""
        return text_of(self.payload)

    @property
    def value(self) -> Any:
        """The payload as one MessagePack value; of a `failure`: [kind, message]. The same object each time. Raises
        `ValueError`.
        """
        if self._value is None:
            self._value = (value_of(self.payload),)
        return self._value[0]


class Verbs:
    """The verbs of agents and flows. What they say takes place when the handler returns; in a flow, when it waits."""

    __slots__ = ("_emits", "_failed", "_new", "_result", "message")

    message: Message

    def __init__(self, message: Message) -> None:
        """`message`: of a flow, the one that it was called with."""
        self.message = message
        self._emits: list[list[Any]] = []
        self._result: tuple[bytes, tuple[Tensor, ...]] | None = None
        self._failed: Fail | None = None
        self._new = NewTensors()
        self._new.begin(len(message.tensors))

    def emit(self, target: str, payload: Any = b"", priority: int = 0, tensors: Iterable[Tensor] = ()) -> int:
        """Send a `tell` to an agent (`name` or `name/key`) or a model (`model:NAME`). Returns its place among the
        emits.

        A payload of bytes or str travels as it is, any other value as MessagePack.
        """
        return self._emit(target, payload, priority, "tell", tensors)

    def reply(self, payload: Any = b"", tensors: Iterable[Tensor] = ()) -> None:
        """Set the task's result; the last call counts. Without it the task has no result."""
        self._result = _payload(payload), _checked(tensors)

    def fail(self, code: str, message: str = "") -> NoReturn:
        """End the task here as `error` "code: message": the state stays as it was, and nothing is sent."""
        _check_code(code)
        self._failed = Fail(code, str(message))
        raise self._failed

    def log(self, text: object) -> None:
        """Write lines to the task's log at once; `print` does the same."""
        print(text, flush=True)

    def tensor(self, dtype: str, shape: Iterable[int], data: Any) -> Tensor:
        """Make a tensor that `emit`, `ask` and `reply` take. `data`: its bytes in C order, little-endian, as any object
        with a buffer (bytes, array, memoryview, numpy array).

        Raises `ValueError` if dtype, shape and size do not fit, `OSError` if the task has no room for it.
        """
        return self._new.make(dtype, tuple(shape), data)

    def _emit(
        self, target: str, payload: Any, priority: int, kind: str, tensors: Iterable[Tensor],
        delay_ms: int = 0, answers: int = 0,
    ) -> int:  # fmt: skip
        """Keep an emit, without the fields at its end that say nothing; return its place."""
        if type(target) is not str:
            raise TypeError(f"a target is a str like name/key, not {type(target).__name__}")
        if not _is_target(target):
            raise ValueError(
                f"{target!r} is no target: use name/key, name or model:NAME (a name has letters, digits, _ . and -)"
            )
        if type(priority) is not int or priority not in PRIORITIES:
            raise ValueError(f"a priority is an int from {PRIORITIES[0]} to {PRIORITIES[-1]}, not {priority!r}")
        fields = [target, _payload(payload), priority, kind, _indices(_checked(tensors))]
        if answers:
            fields += (delay_ms, answers)
        elif delay_ms or kind == "timer":
            fields.append(delay_ms)
        self._emits.append(fields)
        return len(self._emits) - 1

    def _output(self, state: bytes | None, waits: str | None) -> bytes:
        """Return the ABI's output (docs/AGENTS.md). Raises what `pack` raises."""
        if self._failed is not None:  # and the handler went on
            return pack_failure(self._failed.code, self._failed.message)
        result, tensors = self._result or (None, ())
        fields: list[Any] = [ABI_VERSION, 0, state, result, self._emits, []]  # log lines were written when they came
        if tensors or waits is not None:
            fields.append(_indices(tensors))
        if waits is not None:
            fields.append(printable(waits))
        return pack(fields)


class Context(Verbs):
    """The message, the state and the verbs of one task. What the verbs say takes place when the handler returns."""

    __slots__ = ("_encoded", "_postponed", "_state", "_used", "_value")

    def __init__(self, message: Message, state: bytes | None, value: tuple[Any] | None = None) -> None:
        """`state`: as stored; `value`: see `step`. rota.agent makes contexts; an author only gets them."""
        super().__init__(message)
        self._value = value
        self._encoded = state
        self._state: Any = None
        self._used = False
        self._postponed = False

    @property
    def state(self) -> Any:
        """The agent's state: any value of None, bool, int, float, str, bytes, list, dict. None at first.

        It is written back when its encoding has changed, so a dict can be changed in place. Raises `ValueError` if
        what is stored is not MessagePack (another program wrote it).
        """
        if not self._used:
            if self._encoded is not None:
                self._state = unpack(self._encoded) if self._value is None else self._value[0]
            self._used = True
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        self._state = value
        self._used = True

    def ask(
        self,
        target: str,
        payload: Any = b"",
        priority: int = 0,
        tensors: Iterable[Tensor] = (),
        deadline_ms: int = 0,
    ) -> int:
        """Send an `ask`. Its outcome comes as a later `reply` or `failure`, whose `reply_to.emit` is the number that
        this returns, and whose `reply_to.asked_in` is the turn of this message. After `deadline_ms` milliseconds (0:
        never) without an answer comes a `failure` of kind `expired`.
        """
        return self._emit(target, payload, priority, "ask", tensors, check_ms("deadline_ms", deadline_ms))

    def timer(self, delay_ms: int, payload: Any = b"", priority: int = 0, tensors: Iterable[Tensor] = ()) -> int:
        """Send a `timer` to this agent itself, which comes after `delay_ms` milliseconds."""
        return self._emit(self.message.address, payload, priority, "timer", tensors, check_ms("delay_ms", delay_ms))

    def reply(self, payload: Any = b"", tensors: Iterable[Tensor] = ()) -> None:
        """Set the task's result; the last call counts. Without it the task has no result. Raises `RuntimeError` after
        `postpone`.
        """
        if self._postponed:
            raise RuntimeError(_ONE_ANSWER)
        super().reply(payload, tensors)

    def postpone(self) -> int:
        """Answer this message later; return its turn, which the answer names.

        Whoever asked waits until a later task of this agent settles that turn, or hands it on. This task then has no
        result. It fails as `bad_settle` if nobody waits for its answer: only an `ask` can be postponed, and a task from
        outside. Raises `RuntimeError` after `reply`.
        """
        if self._result is not None:
            raise RuntimeError(_ONE_ANSWER)
        self._postponed = True
        return self.message.turn

    def settle(self, turn: int, payload: Any = b"", tensors: Iterable[Tensor] = ()) -> None:
        """Answer the message of a turn that this agent has postponed. The task fails as `bad_settle` if it has not, or
        has settled it before.
        """
        self._emit(self.message.address, payload, 0, "reply", tensors, 0, _turn(turn))

    def settle_failure(self, turn: int, code: str, message: str = "") -> None:
        """Have the message of a turn that this agent has postponed fail as `error` "code: message"."""
        _check_code(code)
        payload = pack([printable(code), printable(str(message))])
        self._emit(self.message.address, payload, 0, "failure", (), 0, _turn(turn))

    def hand_on(
        self,
        target: str,
        payload: Any = b"",
        turn: int | None = None,
        priority: int = 0,
        tensors: Iterable[Tensor] = (),
        deadline_ms: int = 0,
    ) -> None:
        """Ask somebody else, whose answer goes to whoever waits for the answer of `turn`: a turn that this agent has
        postponed, or None: this one, which is postponed with it. `deadline_ms` (0: none) can only bring the deadline of
        whoever waits forward.
        """
        answers = self.postpone() if turn is None else _turn(turn)
        self._emit(target, payload, priority, "ask", tensors, check_ms("deadline_ms", deadline_ms), answers)

    def output(self) -> bytes:
        """Return the ABI's output (docs/AGENTS.md). For rota.agent, not for authors. Raises what `pack` raises."""
        state = None
        if self._failed is None and self._used and not (self._state is None and self._encoded is None):
            encoded = pack(self._state)
            if encoded != self._encoded:
                state = encoded
        return self._output(state, "" if self._postponed else None)


def text_of(payload: bytes) -> str:
    """Return a payload as text. Raises `UnicodeDecodeError`."""
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        error.reason += "; what was sent as another value than text or bytes is in .value"
        raise


def value_of(payload: bytes) -> Any:
    """Return a payload as the MessagePack value that it is. Raises `ValueError`."""
    try:
        return unpack(payload)
    except ValueError as error:
        raise ValueError(f"{error}; what was sent as text is in .text, as bytes in .payload") from None


def check_ms(name: str, value: int) -> int:
    """Return a number of milliseconds. Raises `TypeError`."""
    if type(value) is not int:
        raise TypeError(f"{name} is a whole number of milliseconds, an int, not {value!r}")
    return value


def pack_failure(code: str, message: str) -> bytes:
    """Return the ABI's output of a task that failed."""
    return pack([ABI_VERSION, 1, printable(code), printable(message), []])


def printable(text: str) -> str:
    """Return text without lone surrogates, which have no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _payload(value: Any) -> bytes:
    """Return a payload's bytes. Raises what `pack` raises."""
    kind = type(value)
    if kind is bytes:
        return value  # type: ignore[no-any-return]
    if kind is str:
        return value.encode()  # type: ignore[no-any-return]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return value.encode() if isinstance(value, str) else pack(value)


def _turn(value: int) -> int:
    if type(value) is not int or value < 1:
        raise TypeError(f"a turn is the number that ctx.postpone() returned, not {value!r}")
    return value


def _check_code(code: str) -> None:
    if not isinstance(code, str) or not code:
        raise ValueError("a failure needs a code: a str that is not empty")


def _checked(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    found = tuple(tensors)
    for tensor in found:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"not a tensor of this task: {type(tensor).__name__}; make one with ctx.tensor")
    return found


def _indices(tensors: Iterable[Tensor]) -> list[int]:
    return [tensor.usable().index for tensor in tensors]
