"""The kinds of code, one row each: the pool that runs it, whether it has state, what is checked at deploy. PURE.

Code that treats kinds differently uses this table and does not compare kind names. A new kind is a row here and an
executor that runs it; docs/ARCHITECTURE.md shows the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple

from rota.common.targets import MODEL_PREFIX
from rota.common.work import AGENT, COMMAND, COMPONENT, FUNCTION, MODEL, SOURCE, Code

# What the digest of a kind's code is of. The first three are kept by the broker, models by the GPU workers.
IS_MODULE: Final = "module"  # a core WebAssembly module
IS_BUNDLE: Final = "bundle"  # bundle.py: it names its program, a core module, by digest
IS_COMPONENT: Final = "component"  # a WebAssembly component
IS_MODEL: Final = "model"  # a model of the repository


class KindFacts(NamedTuple):
    """The properties of all code of a kind."""

    name: str
    pool: str  # of the workers that run it
    name_prefix: str  # prefix of the names that it is bound to
    keeps_state: bool  # an address has a state, so its tasks run one after another; else in parallel
    emits: bool  # its tasks may emit tasks
    content: Literal["module", "bundle", "component", "model"]  # what its digest is of
    has_provenance: bool  # its results say where they came from; only some of them are repeatable
    may_reuse: bool  # a deploy may keep an instance for many tasks
    roles: tuple[tuple[str, str], ...]  # of the exports that its module needs, with their default names
    names_exports: bool  # a deploy may name the exports for the roles
    optional_roles: tuple[str, ...]  # given together or not at all, without default names
    failures: tuple[str, ...]  # the kinds of failure that its execution can end in
    has_entry: bool = False  # its bundle names a main file, and its program is a runtime
    may_flow: bool = False  # a deploy may make each task a call of its own (execution model, part 11)

    @property
    def is_kept(self) -> bool:
        """Whether the broker keeps the bytes; else it is a model of the repository."""
        return self.content != IS_MODEL


OUTPUT_ROLES: Final = ("output_ptr", "output_len")  # of a function whose answer is read from two exports of its own
_ALLOC: Final = ("alloc", "rota_alloc")
_SANDBOX_FAILURES: Final = ("trap", "fuel", "memory", "bad_output")
_EMITTER_FAILURES: Final = ("overflow", "bad_settle")

_ROWS: Final = (
    KindFacts(
        AGENT, "cpu", "", keeps_state=True, emits=True, content=IS_MODULE, has_provenance=False, may_reuse=True,
        roles=(_ALLOC, ("step", "rota_step")), names_exports=False, optional_roles=(),
        failures=("error", *_SANDBOX_FAILURES, *_EMITTER_FAILURES), may_flow=True,
    ),
    KindFacts(
        FUNCTION, "cpu", "", keeps_state=False, emits=False, content=IS_MODULE, has_provenance=False, may_reuse=True,
        roles=(_ALLOC, ("call", "rota_call")), names_exports=True, optional_roles=OUTPUT_ROLES,
        failures=("error", *_SANDBOX_FAILURES),
    ),
    KindFacts(
        COMMAND, "cpu", "", keeps_state=False, emits=False, content=IS_BUNDLE, has_provenance=False, may_reuse=False,
        roles=(("start", "_start"),), names_exports=True, optional_roles=(), failures=("error", *_SANDBOX_FAILURES),
    ),
    KindFacts(
        SOURCE, "cpu", "", keeps_state=True, emits=True, content=IS_BUNDLE, has_provenance=False, may_reuse=False,
        roles=(), names_exports=False, optional_roles=(), failures=("error", *_SANDBOX_FAILURES, *_EMITTER_FAILURES),
        has_entry=True, may_flow=True,
    ),
    KindFacts(
        COMPONENT, "cpu", "", keeps_state=True, emits=True, content=IS_COMPONENT, has_provenance=False,
        may_reuse=False, roles=(), names_exports=False, optional_roles=(),
        failures=("error", *_SANDBOX_FAILURES, *_EMITTER_FAILURES),
    ),
    KindFacts(
        MODEL, "gpu", MODEL_PREFIX, keeps_state=False, emits=False, content=IS_MODEL, has_provenance=True,
        may_reuse=False, roles=(), names_exports=False, optional_roles=(), failures=("bad_input", "bad_output"),
    ),
)  # fmt: skip
KINDS: Final[Mapping[str, KindFacts]] = {row.name: row for row in _ROWS}
KEPT_KINDS: Final = tuple([row.name for row in _ROWS if row.is_kept])
FLOW_EXPORT: Final = "rota_flow"  # a module of kind agent with it is deployed as a flow, if nothing else is said
FLOW_KINDS: Final = tuple([row.name for row in _ROWS if row.may_flow])
PROGRAM_KINDS: Final = tuple([row.name for row in _ROWS if row.roles])  # whose module is the author's program


def content_file(digest: bytes, content: str) -> str:
    """Return the name of the file that holds the bytes with this digest, in the folder of modules."""
    return f"{digest.hex()}.{'bundle' if content == IS_BUNDLE else 'wasm'}"


def kind_of(code: Code) -> KindFacts:
    """Return the properties of this code's kind."""
    return KINDS[code.kind]


def pool_of(code: Code) -> str:
    """Return the pool of workers that run this code."""
    return KINDS[code.kind].pool
