"""The pytest plugin in another pytest process: fixtures, marker, report, and its cost when unused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

TESTS = """
import pytest
from rota.local import LocalLane

@pytest.mark.rota_lane(window=8, name="small")
def test_with_options(rota_lane):
    assert (rota_lane.window, rota_lane.name) == (8, "small")

def test_fails(rota_lane: LocalLane, rota_lane_factory):
    other = rota_lane_factory("other")
    rota_lane.deploy("counter", {counter!r})
    rota_lane.submit_many("counter/a", [b"+"] * 3)
    rota_lane.run()
    other.submit("nobody", b"lost")
    assert rota_lane.state("counter/a") is None

def test_is_fresh(rota_lane):
    assert (rota_lane.retired, rota_lane.agents) == (0, ())

def test_without_a_lane_fails():
    assert False
"""


def _pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = [
        "-p",
        "no:cacheprovider",
        "-W",
        "error",
        "--strict-markers",
        "--strict-config",
        "--rootdir",
        str(folder),
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *arguments, str(folder)],
        cwd=folder, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_failed_test_shows_its_lanes(agents: Path, tmp_path: Path) -> None:
    """Goal: the report of a failed test tells what its lanes did; others are as without the plugin. Method: a suite of
    four tests, of which two fail; the sections of the one that has lanes.
    """
    (tmp_path / "test_it.py").write_text(TESTS.format(counter=str(agents / "counter.wasm")), encoding="utf-8")
    done = _pytest(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 2 passed" in done.stdout
    assert done.stdout.count(" rota lane main ") == done.stdout.count(" rota lane other ") == 1
    section = done.stdout.split(" rota lane main ")[1].split(" rota lane other ")
    assert [line.split()[:4] for line in section[0].splitlines() if line[:1].isdigit()] == [
        [str(turn), "-", "tell", "counter/a"] for turn in (1, 2, 3)
    ]
    assert "unknown_agent" in section[1]
    left_out = _pytest(tmp_path, "-p", "no:rota", "-k", "fresh", "-o", "markers=rota_lane: ours")
    assert "fixture 'rota_lane' not found" in left_out.stdout


def test_the_plugin_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    """Goal: every pytest where Rota is installed loads the plugin, and should not notice. Method: what a run without a
    lane has imported of ours and of the engines; and that `rota.local` needs no pytest.
    """
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    loaded = [name for name in sys.modules if name.startswith(('rota.', 'wasmtime', 'onnxruntime', 'zmq'))]\n"
        "    assert sorted(loaded) == ['rota.local', 'rota.local.pytest_plugin']\n",
        encoding="utf-8",
    )
    done = _pytest(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "import sys; from rota import local; local.open_lane().close(); assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_every_public_name_is_there() -> None:
    """Goal: no name of `rota.local` fails at its first use. Method: load each."""
    from rota import local

    assert len({getattr(local, name) for name in local.__all__}) == len(local.__all__) - 1  # open_lane is LocalLane
    with pytest.raises(AttributeError):
        local.nothing  # noqa: B018
