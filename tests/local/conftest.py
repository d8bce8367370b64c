"""Modules and helpers shared by tests of rota.local. Lanes come from the pytest plugin, as for users."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import wasmtime

TESTS = Path(__file__).resolve().parents[1]

SPIN = """(module (memory (export "memory") 1)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param i32 i32) (result i64) (loop br 0) i64.const 0))"""


@pytest.fixture(scope="session")
def agents() -> Path:
    return TESTS.parent / "examples" / "agents"


@pytest.fixture(scope="session")
def spin() -> bytes:
    """A function that never ends."""
    return bytes(wasmtime.wat2wasm(SPIN))


@pytest.fixture(scope="session")
def callers() -> ModuleType:
    """Makes the smallest agents and flows that ask, as the bench measures them."""
    path = TESTS.parent / "scripts" / "_bench_callers.py"
    spec = importlib.util.spec_from_file_location("_bench_callers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
