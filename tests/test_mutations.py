"""The list of faults that scripts/mutate.py plants keeps up with the code. The script itself runs them."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("_mutations", ROOT / "scripts" / "_mutations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_mutations"] = module
    spec.loader.exec_module(module)
    return module


MUTATIONS = _load().MUTATIONS


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_the_fault_can_be_planted(mutation: Any) -> None:
    """Goal: the list cannot rot. Method: the text is in its file once, the result is Python, its tests are there."""
    whole = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert whole.count(mutation.text) == 1
    assert mutation.text != mutation.replacement
    ast.parse(whole.replace(mutation.text, mutation.replacement))
    assert mutation.tests
    assert all((ROOT / test).exists() for test in mutation.tests)


def test_the_list_is_a_list_of_many() -> None:
    """Goal: no fault under the name of another, and not only a few. Method: count."""
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
