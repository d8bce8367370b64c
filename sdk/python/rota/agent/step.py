"""One task: the fields that `rota_step` gets, to the array that it returns (docs/AGENTS.md), around a handler.

Whatever the handler raises becomes an `error` with the name of the exception, its text and the traceback of the
source's own files. A handler may be `async`: it runs in an event loop of its own until it ends.
"""

from __future__ import annotations

import asyncio
import inspect
import random
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from rota.agent.context import Context, Fail, Message, pack_failure, printable
from rota.agent.hints import hint

Handler = Callable[[Context], Any]

MESSAGE_CHARS_MAX: Final = 1900  # of an uncaught exception's text and traceback; the task keeps 2,000 with the code
FRAMES_MAX: Final = 20  # of a traceback, the innermost
_TRACEBACK: Final = "Traceback (most recent call last):\n"
CHAIN_MAX: Final = 10  # exceptions that led to one
OUR_FILES: Final = __file__.rsplit("/", 1)[0] + "/"
_LIBRARY: Final = inspect.isclass.__code__.co_filename.rsplit("/", 1)[0] + "/"


def step(handler: Handler, fields: Sequence[Any], values: tuple[Any, Any] = (None, None)) -> bytes:
    """Run `handler` on one input and return the output; nothing that the handler does makes this raise, except that
    there is no memory left. `fields`: those of the ABI's input without `version`; `values`: what state and payload are
    as MessagePack, each in a tuple of one, if the host has read it already.
    """
    state, *rest = fields
    message = Message(rest, values[1])
    seed(message.entropy)
    context = Context(message, state, values[0])
    try:
        _drive(handler(context))
        return context.output()
    except BaseException as error:
        return failed(error)


def failed(error: BaseException) -> bytes:
    """Return the output for what a handler raised: `Fail`, or anything else."""
    if isinstance(error, Fail):
        return pack_failure(error.code, error.message)
    try:
        return _failed(error)
    except BaseException as second:  # of a handler that has changed sys.stderr, or made an exception that has no text
        return pack_failure(type(error).__name__, f"(no traceback can be made: {type(second).__name__})")


def seed(entropy: bytes) -> None:
    """Seed `random` from a task's entropy, as `random.seed(int.from_bytes(entropy, "big"))` does."""
    random.seed(int.from_bytes(entropy, "big"))


def describe(error: BaseException) -> tuple[str, str, str]:
    """Return an exception's name, its text, and its traceback without our own frames, cut after some frames."""
    _cut(error)
    try:
        text = str(error)
    except Exception as second:
        text = f"(its text cannot be had: {type(second).__name__})"
    if isinstance(error, SyntaxError):
        text = error.msg or text
    if isinstance(error, BaseExceptionGroup) and error.exceptions:
        first = error.exceptions[0]
        text = f"{text}; the first is {type(first).__name__}: {first}"
    remedy = hint(error, text)
    if remedy:
        text = f"{text} ({remedy})" if text else remedy
    lines = traceback.TracebackException(
        type(error), error, error.__traceback__, limit=-FRAMES_MAX, compact=True
    ).format()
    return type(error).__name__, text, "".join(lines)


def _drive(answer: Any) -> None:
    """Run a coroutine to its end. Raises `TypeError` if the handler returned anything else."""
    if inspect.iscoroutine(answer):
        answer = asyncio.run(answer)
    if answer is not None:
        raise TypeError(f"the handler returned {type(answer).__name__}; use ctx.reply(...), and return nothing")


def _failed(error: BaseException) -> bytes:
    """Return the output for an uncaught exception: its text and its own part of the traceback in the message, and the
    whole traceback in the log if that says more.
    """
    name, text, whole = describe(error)
    own = _own_part(error)
    message = f"{text}\n{own}".rstrip()
    if (
        whole != f"{_TRACEBACK}{own}{''.join(traceback.format_exception_only(error))}"
        or len(message) > MESSAGE_CHARS_MAX
    ):
        print(printable(whole), end="", file=sys.stderr, flush=True)
    if len(message) > MESSAGE_CHARS_MAX:
        message = f"{message[:400]}\n...\n{message[400 - MESSAGE_CHARS_MAX :]}"
    return pack_failure(name, message)


def _own_part(error: BaseException) -> str:
    """Return the frames of the source's own files, the innermost last."""
    frames = traceback.extract_tb(error.__traceback__)
    return "".join(traceback.format_list([frame for frame in frames if not is_library(frame.filename)]))


def _cut(error: BaseException, depth: int = 0) -> None:
    """Leave of the traceback of an exception, and of those that led to it, the innermost frames, and at the outer end
    none of ours or of the library's that called the source. A long traceback costs much to format.
    """
    place, frames = error.__traceback__, 0
    while place is not None and is_library(place.tb_frame.f_code.co_filename):
        place = place.tb_next
    error.__traceback__ = end = place
    while end is not None:
        end, frames = end.tb_next, frames + 1
    for _ in range(frames - FRAMES_MAX):
        assert error.__traceback__ is not None
        error.__traceback__ = error.__traceback__.tb_next
    for other in (error.__cause__, error.__context__):
        if other is not None and depth < CHAIN_MAX:
            _cut(other, depth + 1)


def is_library(filename: str) -> bool:
    """Return whether a source file is ours or Python's."""
    return filename.startswith(("<frozen ", OUR_FILES, _LIBRARY))
