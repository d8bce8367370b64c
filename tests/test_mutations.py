"""The faults that scripts/mutate.py plants fit the code. The script itself runs them."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "TESTING.md").read_text(encoding="utf-8")


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


def test_the_faults_are_in_the_document() -> None:
    """Goal: docs/TESTING.md lists the faults. Method: name, promise and file of each against the table, and back."""
    rows = re.findall(r"^\| ([a-z0-9-]+) \| (.*) \| `([^`]+)` \| `test_\w+\.py::\w+` \|$", DOCUMENT, re.MULTILINE)
    assert sorted(rows) == sorted((mutation.name, mutation.promise, mutation.file) for mutation in MUTATIONS)


def test_the_list_is_a_list_of_many() -> None:
    """Goal: no fault under the name of another, and not only a few. Method: count."""
    assert len({mutation.name for mutation in MUTATIONS}) == len(MUTATIONS) >= 20
