"""What to do about exceptions that are due to the sandbox, and not to the author's code: one sentence for each."""

from __future__ import annotations

import sys
from collections.abc import Iterator

CHAIN_MAX = 10  # exceptions that led to one


def hint(error: BaseException) -> str:
    """Return the remedy for an exception that the sandbox is the reason of, or an empty text."""
    if isinstance(error, MemoryError):
        return "the task's memory is spent; --memory (memory_bytes) deploys with more, and a result has at most 16 MiB"
    for one in _chain(error):
        if isinstance(one, RuntimeError) and one.args == ("can't start new thread",):
            return "the sandbox has no threads; several asks of a flow go on together with asyncio.gather"
        if isinstance(one, ModuleNotFoundError) and one.name:
            return _of_module(one.name)
    return ""


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
