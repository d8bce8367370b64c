"""Runs in the sandbox only, once: makes the interpreter ready, and has itself frozen into the base image.

The host then calls two functions that take no arguments: `_load`, which loads a source, and `_step`, which runs one
task, or the next message of a call of a flow. Their input is the one item of the tuple `_ARGUMENTS`, which the host
replaces by a bytes object of its own; their result is a bytes object. Input comes as `marshal`, which is read at once.
docs/RUNTIMES.md has the addresses, and why it is done this way.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import marshal
import os
import sys
import time
from typing import Any, Final

# In place of the folder of this script. The source's own folder comes before it when it is loaded.
sys.path[:] = [path for path in sys.path if not path.startswith("/rota")]
sys.path.insert(0, "/")

from rota.agent import context, event_loop, flow, loading, step  # noqa: E402  (after sys.path)
from rota.agent.messagepack import pack  # noqa: E402

# What agents import most. A module that is loaded here costs a deploy nothing; a late one up to 0.1 s of a task.
for _name in (
    "abc", "ast", "base64", "bisect", "collections.abc", "contextlib", "copy", "csv", "dataclasses", "datetime",
    "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "html", "io", "itertools", "json", "math",
    "operator", "os", "pathlib", "random", "re", "statistics", "string", "struct", "textwrap", "time", "traceback",
    "types", "typing", "unicodedata", "uuid",
):  # fmt: skip
    __import__(_name)

PROTOCOL: Final = 1  # between this file and runtimes/python_driver.py: raise both when one of them changes
FREEZE_FILE: Final = "/rota/freeze"
WARM_UPS: Final = 20
_NETWORK: Final = (
    "getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "gethostname", "getnameinfo", "getservbyname",
    "socketpair",
)  # fmt: skip
_ARGUMENTS: Final[tuple[bytes]] = (bytes(1),)
_handlers: Any = None  # loading.Handlers
_call: flow.FlowCall | None = None  # of a flow: this instance runs it until it ends


def _load() -> bytes:
    """Load the source; empty if that went well, else a text for its author."""
    global _handlers
    entry, args, env = marshal.loads(_ARGUMENTS[0])
    sys.argv[:] = [entry, *args]
    os.environ.update(env)
    try:
        _handlers = loading.load(entry)
        _settle()
    except loading.LoadError as error:
        return str(error).encode(errors="backslashreplace") or b"?"
    except BaseException as error:  # of a source that has changed sys.stdout, or a module that is needed here
        return f"{entry}: {type(error).__name__} after it was loaded: it has changed Python itself".encode()
    return b""


def _step() -> bytes:
    global _call
    fields, values = marshal.loads(_ARGUMENTS[0])
    if not flow.is_call(fields[-1]):
        return step.step(_handlers.agent, fields, values)
    if _call is None:
        _call = flow.FlowCall(_handlers.flow)
    return _call.step(fields, values)


def _warm_up() -> None:
    """Run a task's way often enough for the interpreter to specialise its code, which is then part of the image."""
    fields: tuple[Any, ...] = (b"\x01", "tell", None, b"", 1, 0, bytes(32), None, [], "name/key")
    for _ in range(WARM_UPS):
        step.step(_nothing, fields)
        call = flow.FlowCall(_no_flow)
        call.step(fields)
        call.step((None, "reply", None, b"", 2, 0, bytes(32), (3, 1, 0), [], "name/~1"))
        call.close()


def _nothing(ctx: context.Context) -> None:
    ctx.state += 1
    ctx.reply("")


async def _no_flow(ctx: flow.FlowContext) -> bytes:
    return (await ctx.ask("name/key", b"")).payload


def _settle() -> None:
    """Leave nothing behind for the first task to do: collect garbage, and never look again at what is alive now."""
    sys.stdout.flush()
    sys.stderr.flush()
    gc.collect()
    gc.freeze()


def _freeze() -> None:
    """Note the addresses that the host needs, and read the clock, which is where the image is taken."""
    empty: tuple[()] = ()
    note = [id(item) for item in (_load, _step, _ARGUMENTS, empty, type(_load), bytes)]
    with open(FREEZE_FILE, "wb") as file:
        file.write(pack([PROTOCOL, *note]))
    time.time()


def _no_sleep_in_flows() -> None:
    """Have `time.sleep` say that it does not wait in a flow. In an agent it moves the task's clock."""
    sleep = time.sleep

    @functools.wraps(sleep)
    def checked(seconds: Any) -> None:
        if _call is not None:
            raise RuntimeError(flow.NO_SLEEP)
        sleep(seconds)

    time.sleep = checked


def _no_network() -> None:
    """Have what would ask the network raise `OSError`, as code expects that is written for hosts without one. The build
    has left these functions out.
    """
    import _socket
    import errno
    import socket

    def refuse(*_args: Any, **_more: Any) -> Any:
        raise OSError(errno.ENOTSUP, "the sandbox has no network")

    for module in (_socket, socket):
        for name in _NETWORK:
            if not hasattr(module, name):
                setattr(module, name, refuse)


sys.dont_write_bytecode = True
sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
sys.stderr.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
_no_network()
_no_sleep_in_flows()
asyncio.set_event_loop_policy(event_loop.EventLoopPolicy())
_warm_up()
_settle()
_freeze()
