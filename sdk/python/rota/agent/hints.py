"""What to do about exceptions that are due to the sandbox, or to a common mistake: one sentence for each."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from types import CoroutineType

CHAIN_MAX = 10  # exceptions that led to one
AWAIT_IT = "await it first, as in: answer = await ctx.ask(...)"
_IS_NOT_AWAITED = re.compile(
    r"\bUnawaited\b|_asyncio\.(Future|Task)\b|'coroutine'|\"coroutine\"|^(Future|Task|coroutine) has no form"
).search
_NEVER_AWAITED = re.compile("object .* can't be used in 'await' expression").fullmatch
_HAS_NO = re.compile(r"'(\w+)' object has no attribute '(\w+)'").match
_OF_MESSAGE = dict.fromkeys(
    ("payload", "text", "value", "sender", "kind", "turn", "now_ms", "reply_to", "address", "tensors"),
    "it is in ctx.message",
)
_INSTEAD = {  # by class and attribute
    "FlowContext": {
        "state": "a flow has no state: its variables stay while it waits",
        "timer": "a flow waits: await ctx.sleep(milliseconds)",
        "hand_on": "return await ctx.ask(...) gives the answer on",
        **dict.fromkeys(("postpone", "settle", "settle_failure"), "a flow is answered once, by what it returns"),
        **_OF_MESSAGE,
    },
    "Context": {
        **dict.fromkeys(
            ("sleep", "generate", "embed", "classify", "model"),
            "an agent does not wait: write `async def flow(ctx)`, or ctx.timer and ctx.ask, whose messages come later",
        ),
        **_OF_MESSAGE,
    },
}


def hint(error: BaseException, text: str) -> str:
    """Return the remedy for an exception that the sandbox, or a common mistake, is the reason of, or an empty text.
    `text`: what the exception says.
    """
    if isinstance(error, MemoryError):
        return "the task's memory is spent; --memory (memory_bytes) deploys with more, and a result has at most 16 MiB"
    for one in _chain(error):
        if isinstance(one, RuntimeError) and one.args == ("can't start new thread",):
            return "the sandbox has no threads; several asks of a flow go on together with asyncio.gather"
        if isinstance(one, ModuleNotFoundError) and one.name:
            return _of_module(one.name)
    return _of_mistake(error, text)


def _of_mistake(error: BaseException, text: str) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _of_mistake(error.exceptions[0], str(error.exceptions[0]))
    if isinstance(error, AttributeError):
        if isinstance(error.obj, asyncio.Future | CoroutineType):
            return AWAIT_IT
        found = _HAS_NO(text)
        return "" if found is None else _INSTEAD.get(found[1], {}).get(found[2], "")
    if isinstance(error, RuntimeError):
        if text == "await wasn't used with future":
            return AWAIT_IT
        return "await what you would run" if text.startswith("asyncio.run() cannot be called") else ""
    if not isinstance(error, TypeError):
        return ""
    if _NEVER_AWAITED(text):
        return (
            "only what `async def flow(ctx)` asks can be awaited: ctx.ask, ctx.sleep, ctx.generate and so on; an agent "
            "gets the answer as a later message"
        )
    return AWAIT_IT if _IS_NOT_AWAITED(text) else ""


def _of_module(name: str) -> str:
    top = name.split(".", 1)[0]
    if top == "tzdata":
        return "the sandbox has no time zones: give the wheel of tzdata along, --with tzdata-....whl"
    if name.startswith("concurrent.futures."):
        return "the sandbox has no threads and processes: call the function itself"
    if top in sys.stdlib_module_names:
        return f"the Python of the sandbox has no {top.lstrip('_')}; docs/RUNTIMES.md lists what it lacks"
    return (
        "a file or a package of pure Python goes along with --with PATH (`rota run`: --file); one with machine code, "
        "such as numpy, cannot"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(CHAIN_MAX):
        if error is None:
            return
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
