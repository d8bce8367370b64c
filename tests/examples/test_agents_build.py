"""The committed .wasm files of the example agents equal builds of their sources, on any machine."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
AGENTS = REPOSITORY / "examples" / "agents"


@pytest.fixture(scope="module")
def build_agents() -> Any:
    pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    spec = importlib.util.spec_from_file_location("build_agents", REPOSITORY / "scripts" / "build_agents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_module_is_what_its_source_makes(build_agents: Any) -> None:
    """Goal: source and .wasm do not drift apart. Method: build all aside and compare, as --check does."""
    assert build_agents.differences() == []


def test_a_build_does_not_depend_on_its_folder(build_agents: Any, tmp_path: Path) -> None:
    """Goal: reproducible builds. Method: build the largest agent in another folder, with an empty compiler cache."""
    elsewhere = tmp_path / "some where else"
    shutil.copytree(AGENTS, elsewhere)
    target = tmp_path / "built.wasm"
    build_agents.build(elsewhere / "features.c", target, cache=tmp_path / "cache")
    assert target.read_bytes() == (AGENTS / "features.wasm").read_bytes()
    assert str(tmp_path).encode() not in target.read_bytes()


def test_a_changed_source_is_seen(build_agents: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the check can fail. Method: a copy with a changed source, a missing module, a stray one."""
    elsewhere = tmp_path / "agents"
    shutil.copytree(AGENTS, elsewhere)
    counter = (elsewhere / "counter.c").read_text(encoding="utf-8")
    (elsewhere / "counter.c").write_text(counter.replace("++count", "--count"), encoding="utf-8")
    (elsewhere / "echo.wasm").unlink()
    shutil.copy(elsewhere / "relay.wasm", elsewhere / "stray.wasm")
    monkeypatch.setattr(build_agents, "FOLDERS", (elsewhere,))
    assert build_agents.differences() == [
        "counter.wasm is not what counter.c makes",
        "echo.wasm is missing",
        "stray.wasm has no source",
        "agents/DIGESTS does not list the .wasm files as they are",
    ]


def test_a_compiler_error_is_told(build_agents: Any, tmp_path: Path) -> None:
    """Goal: the compiler's words reach the reader. Method: build what is no C."""
    source = tmp_path / "broken.c"
    source.write_text("int x = ;\n", encoding="utf-8")
    with pytest.raises(build_agents.BuildError, match=r"broken\.c.*expected expression"):
        build_agents.build(source, tmp_path / "broken.wasm")


@pytest.mark.parametrize("folder", ["examples/agents", "sdk/c/examples", "tests/kits/agents"])
def test_digests_list_the_modules(folder: str) -> None:
    """Goal: DIGESTS is right where no compiler is installed. Method: hash the files."""
    lines = (REPOSITORY / folder / "DIGESTS").read_text(encoding="utf-8").splitlines()
    files = sorted((REPOSITORY / folder).glob("*.wasm"))
    assert lines == [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in files]
