"""Code as data: an agent whose messages are programs. It runs each as `__main__`, in a fresh interpreter as every task,
and replies what came of it as a value. docs/RUNTIMES.md has the two maps.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import io
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

from rota.agent.context import Context
from rota.agent.messagepack import pack, unpack
from rota.agent.step import describe

NAME: Final = "program.py"
FIELDS: Final = ("source", "args", "files", "stdin", "value", "name")


class BadRequest(Exception):
    """The message is not a program; the text says which field is wrong."""


def agent(ctx: Context) -> None:
    try:
        request = _request(ctx.message.payload)
    except BadRequest as error:
        ctx.fail("bad_program", str(error))
    ctx.reply(run(**request))


def run(
    source: str,
    args: list[str],
    files: dict[str, bytes],
    stdin: bytes,
    value: Any,
    name: str = NAME,
) -> dict[str, Any]:
    """Run a program and return what came of it: `stdout`, `stderr`, `value` (of its last statement, if that is an
    expression), `error` (None, or `type`, `message` and `traceback`), `exit` (the code).
    """
    module = ModuleType("__main__")
    module.__dict__.update(__file__=name, value=value)
    stdout, stderr = _stream(b""), _stream(b"")
    kept = sys.modules["__main__"], sys.argv, sys.stdin, sys.stdout, sys.stderr
    sys.modules["__main__"], sys.argv, sys.stdin, sys.stdout, sys.stderr = (
        module,
        [name, *args],
        _stream(stdin),
        stdout,
        stderr,
    )
    last, error, code = None, None, 0
    try:
        _write_files(files)
        with _exits() as at_exit:
            last = _execute(source, name, module)
            for function, positional, named in reversed(at_exit):
                function(*positional, **named)
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException as raised:
        kind, text, traceback = describe(raised)
        error, code = {"type": kind, "message": text, "traceback": traceback}, 1
    finally:
        sys.modules["__main__"], sys.argv, sys.stdin, sys.stdout, sys.stderr = kept
    texts = [_text(stream) for stream in (stdout, stderr)]
    return {"stdout": texts[0], "stderr": texts[1], "value": _value(last), "error": error, "exit": code}


@contextmanager
def _exits() -> Iterator[list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]]]:
    """Collect what the program registers for its exit. What its process has registered, in a unit test, is not its."""
    found: list[tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]]] = []

    def register(function: Callable[..., object], *positional: Any, **named: Any) -> Callable[..., object]:
        found.append((function, positional, named))
        return function

    kept, atexit.register = atexit.register, register  # type: ignore[assignment]
    try:
        yield found
    finally:
        atexit.register = kept


def _request(payload: bytes) -> dict[str, Any]:
    """Return the arguments of `run`. A payload that is no MessagePack map is the source itself."""
    try:
        given = unpack(payload)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        try:
            given = {"source": payload.decode()}
        except UnicodeDecodeError:
            raise BadRequest("the payload is neither a MessagePack map nor a program in UTF-8") from None
    for field in given:
        if field not in FIELDS:
            raise BadRequest(f"unknown field {field!r}; known: {', '.join(FIELDS)}")
    source, args, files = given.get("source"), given.get("args") or [], given.get("files") or {}
    if not isinstance(source, str):
        raise BadRequest("source: not a str")
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise BadRequest("args: not an array of str")
    if not isinstance(files, dict) or not all(isinstance(path, str) for path in files):
        raise BadRequest("files: not a map of path to content")
    name = given.get("name") or NAME
    if not isinstance(name, str):
        raise BadRequest("name: not a str")
    return {
        "source": source,
        "args": args,
        "files": {path: _bytes(data, f"files[{path}]") for path, data in files.items()},
        "stdin": _bytes(given.get("stdin") or b"", "stdin"),
        "value": given.get("value"),
        "name": name,
    }


def _bytes(data: Any, where: str) -> bytes:
    if isinstance(data, str):
        return data.encode()
    if not isinstance(data, bytes):
        raise BadRequest(f"{where}: neither bin nor str")
    return data


def _write_files(files: dict[str, bytes]) -> None:
    """Write files into the task's own file system. Raises `OSError`, as for a file of Rota's."""
    for path, data in files.items():
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)


def _execute(source: str, name: str, module: ModuleType) -> Any:
    """Run the source in `module`; return the value of its last statement if that is an expression."""
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as in an interpreter with `site`
    tree = ast.parse(source, name)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, name, "exec", dont_inherit=True), module.__dict__)
        return None
    del tree.body[-1]
    exec(compile(tree, name, "exec", dont_inherit=True), module.__dict__)
    return eval(compile(ast.Expression(last.value), name, "eval", dont_inherit=True), module.__dict__)


def _exit_code(end: SystemExit) -> int:
    """Return the code of a process that ends so; a text goes to stderr, as Python does it."""
    if end.code is None:
        return 0
    if isinstance(end.code, int):
        return end.code & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def _value(value: Any) -> Any:
    """Return a value that MessagePack holds: the value, or its repr."""
    try:
        pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _repr(value)
    return value


def _repr(value: Any) -> str:
    try:
        return repr(value).encode(errors="backslashreplace").decode()
    except Exception as error:
        return f"<{type(value).__name__} whose repr raises {type(error).__name__}>"


def _stream(data: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(data), "utf-8", "backslashreplace", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    """Return what was written to a stream, also if the program closed it or wrote bytes that are no text."""
    buffer = stream.buffer
    return "" if buffer.closed else buffer.getvalue().decode(errors="replace")  # type: ignore[attr-defined]
