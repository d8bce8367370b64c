"""The committed modules of the SDKs are what their sources make."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def build_sdk() -> Any:
    spec = importlib.util.spec_from_file_location("build_sdk", REPOSITORY / "scripts" / "build_sdk.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("language", ["assemblyscript", "rust", "zig"])
def test_digests_list_the_modules(build_sdk: Any, language: str) -> None:
    """Goal: DIGESTS is right where no compiler is installed. Method: hash the files; every example has one."""
    folder = REPOSITORY / "sdk" / language / "examples"
    assert (folder / "DIGESTS").read_text(encoding="utf-8") == build_sdk.digests(language)
    assert sorted(path.stem for path in folder.glob("*.wasm")) == sorted(build_sdk.examples(language))


@pytest.mark.parametrize("language", ["assemblyscript", "rust", "zig"])
def test_a_module_is_what_its_source_makes(build_sdk: Any, language: str) -> None:
    """Goal: source and .wasm do not drift apart. Method: build one example aside, where the compiler is there."""
    if language == "zig":
        pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    try:
        assert build_sdk.differences(language, ("counter",)) == []
    except build_sdk.BuildError as error:
        if "need" not in str(error):
            raise
        pytest.skip(str(error))
