"""What a handler gets: the message, the agent's state, and the verbs. See docs/SDK.md.

    from rota.agent import Context

    def agent(ctx: Context) -> None:
        ctx.state = (ctx.state or 0) + 1
        ctx.reply(str(ctx.state))

The import is for the editor's sake; a handler works without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, NoReturn

from rota.agent.messagepack import pack, unpack
from rota.agent.tensors import NewTensors, Tensor

ABI_VERSION: Final = 1
PRIORITIES: Final = range(-8, 8)


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

    def __init__(self, fields: Sequence[Any], value: tuple[Any] | None = None) -> None:
        """Take the fields of the ABI's input but `version` and `state` (docs/AGENTS.md). `value`: see `step`."""
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
            [Tensor(index, name, dtype, tuple(shape)) for index, (name, dtype, shape) in enumerate(tensors)]
            if tensors
            else ()
        )

    @property
    def text(self) -> str:
        """The payload as UTF-8. Raises `UnicodeDecodeError`."""
        return self.payload.decode()

    @property
    def value(self) -> Any:
        """The payload as one MessagePack value; of a `failure`: [kind, message]. The same object each time. Raises
        `ValueError`.
        """
        if self._value is None:
            self._value = (unpack(self.payload),)
        return self._value[0]


class Context:
    """The message, the state and the verbs of one task. What the verbs say takes place when the handler returns."""

    __slots__ = ("_emits", "_encoded", "_failed", "_new", "_result", "_state", "_used", "_value", "message")

    message: Message

    def __init__(self, message: Message, state: bytes | None, value: tuple[Any] | None = None) -> None:
        """`state`: as stored; `value`: see `step`. rota.agent makes contexts; an author only gets them."""
        self._value = value
        self.message = message
        self._encoded = state
        self._state: Any = None
        self._used = False
        self._emits: list[list[Any]] = []
        self._result: tuple[bytes, list[int]] | None = None
        self._failed: Fail | None = None
        self._new = NewTensors(len(message.tensors))

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

    def emit(self, target: str, payload: Any = b"", priority: int = 0, tensors: Iterable[Tensor] = ()) -> int:
        """Send a `tell` to an agent (`name` or `name/key`) or a model (`model:NAME`). Returns its place among the
        emits.

        A payload of bytes or str travels as it is, any other value as MessagePack.
        """
        return self._emit(target, payload, priority, "tell", tensors)

    def ask(self, target: str, payload: Any = b"", priority: int = 0, tensors: Iterable[Tensor] = ()) -> int:
        """Send an `ask`. Its outcome comes as a later `reply` or `failure`, whose `reply_to.emit` is the number that
        this returns, and whose `reply_to.asked_in` is the turn of this message.
        """
        return self._emit(target, payload, priority, "ask", tensors)

    def timer(self, delay_ms: int, payload: Any = b"", priority: int = 0, tensors: Iterable[Tensor] = ()) -> int:
        """Send a `timer` to this agent itself, which comes after `delay_ms` milliseconds."""
        if type(delay_ms) is not int:
            raise TypeError(f"delay_ms is a number of milliseconds, an int, not {type(delay_ms).__name__}")
        index = self._emit(self.message.address, payload, priority, "timer", tensors)
        self._emits[index].append(delay_ms)
        return index

    def reply(self, payload: Any = b"", tensors: Iterable[Tensor] = ()) -> None:
        """Set the task's result; the last call counts. Without it the task has no result."""
        self._result = _payload(payload), self._indices(tensors)

    def fail(self, code: str, message: str = "") -> NoReturn:
        """End the task here as `error` "code: message": the state stays as it was, and nothing is sent."""
        if not isinstance(code, str) or not code:
            raise ValueError("fail needs a code: a str that is not empty")
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

    def _emit(self, target: str, payload: Any, priority: int, kind: str, tensors: Iterable[Tensor]) -> int:
        if type(target) is not str:
            raise TypeError(f"a target is a str like name/key, not {type(target).__name__}")
        if type(priority) is not int or priority not in PRIORITIES:
            raise ValueError(f"a priority is an int from {PRIORITIES[0]} to {PRIORITIES[-1]}, not {priority!r}")
        self._emits.append([target, _payload(payload), priority, kind, self._indices(tensors)])
        return len(self._emits) - 1

    def _indices(self, tensors: Iterable[Tensor]) -> list[int]:
        indices: list[int] = []
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                raise TypeError(f"not a tensor of this task: {type(tensor).__name__}; make one with ctx.tensor")
            indices.append(tensor.index)
        return indices

    def output(self) -> bytes:
        """Return the ABI's output (docs/AGENTS.md). For rota.agent, not for authors. Raises what `pack` raises."""
        if self._failed is not None:  # and the handler went on
            return pack_failure(self._failed.code, self._failed.message)
        state = None
        if self._used and not (self._state is None and self._encoded is None):
            encoded = pack(self._state)
            if encoded != self._encoded:
                state = encoded
        result, tensors = self._result or (None, [])
        fields = [ABI_VERSION, 0, state, result, self._emits, []]  # log lines were written when they came
        return pack([*fields, tensors] if tensors else fields)


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
