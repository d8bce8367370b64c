"""The fetched runtimes, for tests of sources. A test whose runtime is not here is skipped, and says how to get it.

tests/conftest.py names their folder. What is compiled of them is kept there too, so only the first run compiles.
"""

from __future__ import annotations

import pytest

from rota.runtimes.catalog import Runtime, runtime_named
from rota.runtimes.folder import FOLDER_VARIABLE, is_fetched, runtimes_folder


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
