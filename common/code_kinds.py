"""The kinds of code, one row each: who runs it, what it keeps, what is checked at deploy. PURE.

Whoever treats kinds differently asks this table and not for the name of a kind. A new kind is a row here and an
executor that runs it; docs/ARCHITECTURE.md shows the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rota.common.targets import MODEL_PREFIX
from rota.common.work import AGENT, FUNCTION, MODEL, Code


class KindFacts(NamedTuple):
    """What is true of all code of a kind."""

    name: str
    pool: str  # the workers that run it
    name_prefix: str  # of the names that it is bound to
    keeps_state: bool  # an address has a state, so its tasks run one after another; else all run side by side
    emits: bool  # its tasks may emit tasks
    is_module: bool  # a WebAssembly module that comes with the deploy; else a model of the repository
    is_recorded: bool  # its results say where they came from and are read back in a replay, not computed again
    roles: tuple[tuple[str, str], ...]  # of the exports that a module needs, with their usual names
    names_exports: bool  # a deploy may say which exports have the roles


_ALLOC: Final = ("alloc", "rota_alloc")

_ROWS: Final = (
    KindFacts(
        AGENT, "cpu", "", keeps_state=True, emits=True, is_module=True, is_recorded=False,
        roles=(_ALLOC, ("step", "rota_step")), names_exports=False,
    ),
    KindFacts(
        FUNCTION, "cpu", "", keeps_state=False, emits=False, is_module=True, is_recorded=False,
        roles=(_ALLOC, ("call", "rota_call")), names_exports=True,
    ),
    KindFacts(
        MODEL, "gpu", MODEL_PREFIX, keeps_state=False, emits=False, is_module=False, is_recorded=True,
        roles=(), names_exports=False,
    ),
)  # fmt: skip
KINDS: Final[Mapping[str, KindFacts]] = {row.name: row for row in _ROWS}
MODULE_KINDS: Final = tuple([row.name for row in _ROWS if row.is_module])


def kind_of(code: Code) -> KindFacts:
    """Return the row of this code's kind."""
    return KINDS[code.kind]


def pool_of(code: Code) -> str:
    """Return which workers run this code."""
    return KINDS[code.kind].pool
