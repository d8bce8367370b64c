"""The kinds of code, one row each: the pool that runs it, whether it has state, what is checked at deploy. PURE.

Code that treats kinds differently uses this table and does not compare kind names. A new kind is a row here and an
executor that runs it; docs/ARCHITECTURE.md shows the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rota.common.targets import MODEL_PREFIX
from rota.common.work import AGENT, FUNCTION, MODEL, Code


class KindFacts(NamedTuple):
    """The properties of all code of a kind."""

    name: str
    pool: str  # of the workers that run it
    name_prefix: str  # prefix of the names that it is bound to
    keeps_state: bool  # an address has a state, so its tasks run one after another; else in parallel
    emits: bool  # its tasks may emit tasks
    is_module: bool  # a WebAssembly module sent with the deploy; else a model of the repository
    has_provenance: bool  # its results say where they came from; only some of them are repeatable
    roles: tuple[tuple[str, str], ...]  # of the needed exports, with their default names
    names_exports: bool  # a deploy may name the exports for the roles
    failures: tuple[str, ...]  # the kinds of failure that its execution can end in


_ALLOC: Final = ("alloc", "rota_alloc")
_MODULE_FAILURES: Final = ("trap", "fuel", "memory", "bad_output")

_ROWS: Final = (
    KindFacts(
        AGENT, "cpu", "", keeps_state=True, emits=True, is_module=True, has_provenance=False,
        roles=(_ALLOC, ("step", "rota_step")), names_exports=False, failures=("error", *_MODULE_FAILURES, "overflow"),
    ),
    KindFacts(
        FUNCTION, "cpu", "", keeps_state=False, emits=False, is_module=True, has_provenance=False,
        roles=(_ALLOC, ("call", "rota_call")), names_exports=True, failures=_MODULE_FAILURES,
    ),
    KindFacts(
        MODEL, "gpu", MODEL_PREFIX, keeps_state=False, emits=False, is_module=False, has_provenance=True,
        roles=(), names_exports=False, failures=("bad_input", "bad_output"),
    ),
)  # fmt: skip
KINDS: Final[Mapping[str, KindFacts]] = {row.name: row for row in _ROWS}
MODULE_KINDS: Final = tuple([row.name for row in _ROWS if row.is_module])


def kind_of(code: Code) -> KindFacts:
    """Return the properties of this code's kind."""
    return KINDS[code.kind]


def pool_of(code: Code) -> str:
    """Return the pool of workers that run this code."""
    return KINDS[code.kind].pool
