"""The component around an agent in Python: `handle` of sdk/wit/agent.wit calls the same handler as the kind `source`.

`rota build` makes the module that componentize-py takes; it has only a line for `handler_class(agent)`. What the agent
prints and logs comes with the answer, because a component has no import to write it at once.
"""

from __future__ import annotations

import linecache
import sys
import traceback
from typing import Any

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.exports import handler as wit

from rota.agent.messagepack import unpack
from rota.agent.step import Handler, step


def handler_class(agent: Handler) -> type[Any]:
    """Return the class that componentize-py looks for, around a handler. It runs when the component is built."""
    _keep_sources()

    class ComponentHandler(exports.Handler):  # type: ignore[misc]
        def handle(self, state: Any, messages: list[Any]) -> list[Any]:
            outcomes = []
            for message in messages:
                outcome = _outcome(agent, state, message)
                outcomes.append(outcome)
                if isinstance(outcome, Ok) and outcome.value.state is not None:
                    state = outcome.value.state
            return outcomes

    return ComponentHandler


def _keep_sources() -> None:
    """Read the author's sources for tracebacks now, since a component has no files, and looking for one is a trap."""
    library = linecache.__file__.rsplit("/", 1)[0] + "/"
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py") and not file.startswith(library):
            linecache.getlines(file)
    linecache.checkcache = lambda filename=None: None
    linecache.updatecache = lambda filename, module_globals=None: []
    # It compiles a part of a line to underline it, and a syntax error there looks for a file.
    traceback._extract_caret_anchors_from_line_segment = lambda segment: None  # type: ignore[attr-defined]


class _Lines:
    """Takes the place of stdout and stderr."""

    def __init__(self) -> None:
        self._text = ""

    def write(self, text: str) -> int:
        self._text += text
        return len(text)

    def flush(self) -> None: ...

    def lines(self) -> list[str]:
        return self._text.encode(errors="replace").decode().removesuffix("\n").split("\n") if self._text else []


def _outcome(agent: Handler, state: Any, message: Any) -> Any:
    written = _Lines()
    before = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = written  # type: ignore[assignment]
    try:
        packed = step(agent, _fields(state, message))
    finally:
        sys.stdout, sys.stderr = before
    status, *rest = unpack(packed)[1:]
    if status:
        code, text, log = rest
        return Err(wit.Failure(code, text, written.lines() + log))
    after, result, emits, log, *more = rest
    tensors, waits = [*more, *[[], None][len(more) :]]
    return Ok(
        wit.Done(
            None if after is None else _content(after),
            None if result is None else _content(result),
            [_emit(*emit) for emit in emits],
            written.lines() + log,
            tensors,
            waits,
        )
    )


def _fields(state: Any, message: Any) -> list[Any]:
    reply_to = message.reply_to
    return [
        None if state is None else _bytes(state),
        message.kind.name.lower(),
        message.sender,
        _bytes(message.payload),
        message.turn,
        message.now_ms,
        bytes.fromhex(message.entropy),
        None if reply_to is None else [reply_to.turn, reply_to.asked_in, reply_to.emit],
        [[bytes.fromhex(one.digest), one.dtype, list(one.shape)] for one in message.tensors],
        message.address,
    ]


def _emit(
    target: str, payload: bytes, priority: int, kind: str, tensors: list[int], delay_ms: int = 0, answers: int = 0
) -> Any:
    return wit.Emit(target, _content(payload), priority, wit.EmitKind[kind.upper()], tensors, delay_ms, answers)


def _bytes(content: Any) -> bytes:
    value: str = content.value
    return value.encode() if isinstance(content, wit.Content_Text) else value.encode("latin-1")


def _content(data: bytes) -> Any:
    try:
        return wit.Content_Text(data.decode())
    except UnicodeDecodeError:
        return wit.Content_Binary(data.decode("latin-1"))
