"""The language part of bundles of Python: the main file of a folder, the files of Rota that go along, and whether a
file is a flow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Final

from rota.runtimes.languages import Language, unchanged
from rota.sdk.files import folder

_HOST_ONLY: Final = ("testing.py",)


def _boot_files() -> Mapping[str, bytes]:
    """Return the package `rota.agent`, as it is imported in the sandbox."""
    package = folder("python") / "rota" / "agent"
    return {
        f"rota/agent/{path.name}": path.read_bytes()
        for path in sorted(package.glob("*.py"))
        if path.name not in _HOST_ONLY
    }


def _is_flow(source: bytes) -> bool:
    """Return whether the top level of a module binds `flow` and not `agent`. What is no Python binds neither: the
    deploy says what is wrong with it.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    names = set(_bound(tree.body))
    return "flow" in names and "agent" not in names


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements bind, also those in blocks of `if`, `try` and `with`."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield statement.name
            case ast.Import() | ast.ImportFrom():
                yield from [alias.asname or alias.name for alias in statement.names]
            case ast.Assign() | ast.AnnAssign():
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        yield node.id
            case ast.If() | ast.Try() | ast.With():
                for part in ("body", "orelse", "finalbody"):
                    yield from _bound(getattr(statement, part, []))
                for handler in getattr(statement, "handlers", []):
                    yield from _bound(handler.body)
            case _:
                pass


LANGUAGE: Final = Language(
    mains=("agent.py", "flow.py", "main.py", "__main__.py"), boot_files=_boot_files, convert=unchanged, is_flow=_is_flow
)
