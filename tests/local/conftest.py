"""Modules and helpers shared by tests of rota.local. Lanes come from the pytest plugin, as for users."""

from __future__ import annotations

from pathlib import Path

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
