"""Programs as data: the agents that run programs which come as messages, and the maps of their messages.

docs/RUNTIMES.md has the fields. Such an agent is an ordinary source, `sdk/<language>/programs/program.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgpack

from rota.common.errors import BadPayload, ConfigError
from rota.runtimes.catalog import Runtime
from rota.sdk.files import folder

REPLY_FIELDS: Final = ("stdout", "stderr", "value", "error", "exit")


class ProgramEnd(NamedTuple):
    """What came of a program. `error`: None, or `type`, `message` and `traceback`; `exit`: its exit code."""

    stdout: str
    stderr: str
    value: Any
    error: Mapping[str, str] | None
    exit: int


def program_path(runtime: Runtime) -> Path:
    """Return the source to deploy for programs of a runtime. Raises `ConfigError` if it has none."""
    path = folder(runtime.name) / "programs" / f"program{runtime.suffixes[0]}"
    if not path.is_file():
        raise ConfigError(f"the runtime {runtime.name} runs no programs that come as messages")
    return path


def encode_program(
    source: str,
    name: str = "",
    *,
    args: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    stdin: bytes = b"",
    value: Any = None,
) -> bytes:
    """Return the payload of a task that runs `source`. Raises `BadPayload` for a value that MessagePack cannot hold."""
    fields = {"source": source, "args": list(args), "files": dict(files or {}), "stdin": stdin, "value": value}
    try:
        packed: bytes = msgpack.packb({**fields, "name": name} if name else fields)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadPayload(f"the program cannot be sent as MessagePack: {error}") from error
    return packed


def decode_program_end(data: bytes) -> ProgramEnd:
    """Return what a program's task replied. Raises `BadPayload` if it is none of ours."""
    try:
        found = msgpack.unpackb(data, strict_map_key=False, object_pairs_hook=_map_of)
        end = ProgramEnd(*(found[field] for field in REPLY_FIELDS))
        if isinstance(end.stdout, str) and isinstance(end.stderr, str) and isinstance(end.exit, int):
            return end
    except (ValueError, KeyError, TypeError, msgpack.UnpackException):
        pass
    raise BadPayload("the reply is not that of a program: the name is bound to other code")


def _map_of(pairs: list[tuple[Any, Any]]) -> Any:
    """Return a map as a dictionary; as its pairs if a key is one that no dictionary takes, such as an object."""
    try:
        return dict(pairs)
    except TypeError:
        return pairs
