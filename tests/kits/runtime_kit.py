"""The fetched runtimes, for tests of sources. A test whose runtime is not here is skipped, and says how to get it.

tests/conftest.py names their folder. What is compiled of them is kept there too, so only the first run compiles.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from rota.broker.modules import ModuleStore
from rota.common.bundle import encode_bundle
from rota.common.digests import digest
from rota.common.work import SOURCE, Code, Limits
from rota.cpu_worker.executor import WasmExecutor
from rota.runtimes.bundles import SourceBundle
from rota.runtimes.catalog import Runtime, runtime_named
from rota.runtimes.folder import FOLDER_VARIABLE, is_fetched, runtimes_folder

LIMITS: Final = Limits()


def python_runtime() -> Runtime:
    """Return the runtime of Python, or skip the test."""
    return _fetched("python")


def javascript_runtime() -> Runtime:
    """Return the runtime of JavaScript, or skip the test."""
    return _fetched("javascript")


def _fetched(name: str) -> Runtime:
    runtime = runtime_named(name)
    if not is_fetched(runtime):
        pytest.skip(f"{FOLDER_VARIABLE}={runtimes_folder()} rota runtime fetch {name} gets the runtime for this test")
    return runtime


def put_source(
    executor: WasmExecutor, modules: Path, found: SourceBundle, limits: Limits = LIMITS, *, flow: bool = False
) -> Code:
    """Keep a bundle and make its image. Raises `CodeError` as a deploy does."""
    data = encode_bundle(found.bundle)
    ModuleStore(modules).keep(digest(data), data)
    code = Code(digest(data), SOURCE, limits=limits, flow=flow)
    executor.prepare(code, "agent/x")
    return code
