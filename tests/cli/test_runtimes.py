"""`rota runtime`: what is there, what is not, and how to get it; without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rota.cli.exits import ExitCode
from rota.runtimes.catalog import RUNTIMES
from rota.runtimes.folder import FOLDER_VARIABLE, runtime_path

Call = Callable[..., tuple[int, str, str]]
JAVASCRIPT = RUNTIMES["javascript"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "runtimes"
    monkeypatch.setenv(FOLDER_VARIABLE, str(found))
    return found


def test_runtimes_are_listed_shown_and_removed(call: Call, folder: Path) -> None:
    """Goal: a user sees what is fetched. Method: an empty folder, then a file of the right size in it."""
    code, out, _ = call("runtime", "ls", "--json")
    assert code == 0
    assert {row["name"]: row["fetched"] for row in json.loads(out)} == dict.fromkeys(RUNTIMES, False)
    folder.mkdir()
    runtime_path(JAVASCRIPT).write_bytes(bytes(JAVASCRIPT.size_bytes))
    shown = json.loads(call("runtime", "show", "javascript", "--json")[1])
    assert (shown["fetched"], shown["digest"], shown["path"]) == (
        True,
        JAVASCRIPT.digest.hex(),
        str(runtime_path(JAVASCRIPT)),
    )
    assert "MIT" in call("runtime", "ls")[1]
    assert call("runtime", "rm", "javascript")[2] == f"removed {runtime_path(JAVASCRIPT)}\n"
    assert call("runtime", "rm", "javascript")[2] == "javascript was not fetched\n"
    assert not list(folder.iterdir())


def test_what_cannot_be_fetched_says_why(call: Call, folder: Path, tmp_path: Path) -> None:
    """Goal: no half runtime, and a remedy. Method: an unknown name, a package that is none."""
    code, _, err = call("runtime", "fetch", "perl")
    assert (code, "there are python, javascript" in err) == (ExitCode.CONFIG, True), err
    (tmp_path / "p.tgz").write_bytes(b"no archive")
    code, _, err = call("runtime", "fetch", "javascript", "--package", tmp_path / "p.tgz")
    assert code != 0
    assert "is no package that can be read" in err
    assert not list(folder.iterdir())


def test_wrong_options_of_a_deploy_are_named(call: Call, tmp_path: Path) -> None:
    """Goal: a typing error is found before a broker is asked. Method: one wrong option of each form."""
    (tmp_path / "planner.py").write_text("", encoding="utf-8")
    for option, said in (
        (("--env", "K"), "'K' is not KEY=VALUE"),
        (("--file", "=x"), "'=x' is not GUEST=HOST"),
        (("--with", "none"), "none is not there"),
        (("--with", "a=none"), "none is not there"),
    ):
        code, _, err = call("deploy", "planner", tmp_path / "planner.py", *option)
        assert (code, said in err) == (ExitCode.USAGE, True), err
