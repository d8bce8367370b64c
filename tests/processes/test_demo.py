"""The demo as a user runs it: a process that starts the broker and its workers and cleans up after itself.

The files are small ones made here; the model is the real one. Without the package index, and without the model from an
earlier fetch, these tests are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "scripts"
AGENTS = REPOSITORY / "examples" / "agents"
FETCH_SECONDS_MAX = 90
DEMO_SECONDS_MAX = 110  # on a busy machine
NOT_FETCHED = 3
# The demo with another folder of agents than that of the repository.
WITH_AGENTS = """
import sys
from pathlib import Path
scripts, agents, *arguments = sys.argv[1:]
sys.path.insert(0, scripts)
import demo
demo.AGENTS = Path(agents)
sys.argv = ["demo.py", *arguments]
sys.exit(demo.main())
"""


@pytest.fixture(scope="module", autouse=True)
def _model() -> None:
    """Have the model in the cache."""
    command = [sys.executable, str(SCRIPTS / "fetch_magika.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_SECONDS_MAX, check=False)
    if done.returncode == NOT_FETCHED:
        pytest.skip(f"the magika wheel cannot be had: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with 24 files: sources, and the short and empty ones that the model is not asked about."""
    folder = tmp_path / "files"
    folder.mkdir()
    sources = sorted(SCRIPTS.glob("*.py")) + sorted(AGENTS.glob("*.c")) + sorted(AGENTS.glob("*.wasm"))
    for source in sources[:20]:
        shutil.copy(source, folder / source.name)
    for name, content in (("empty", b""), ("few", b"abc"), ("white", b" " * 9_000), ("odd", b"\xff\xfe")):
        (folder / name).write_bytes(content)
    assert len(list(folder.iterdir())) == 24
    return folder


@contextmanager
def started(run_dir: Path, arguments: list[str], program: list[str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Yield a running demo whose temporary files are made in `run_dir`."""
    command = [sys.executable, *(program or [str(SCRIPTS / "demo.py")]), *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROTA_")}
    environment["TMPDIR"] = str(run_dir)
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def demo(run_dir: Path, *arguments: str, program: list[str] | None = None) -> tuple[int, str]:
    """Run the demo to its end and return its exit code and all that it said; it must leave nothing in `run_dir`."""
    with started(run_dir, list(arguments), program) as process:
        said, complained = process.communicate(timeout=DEMO_SECONDS_MAX)
    assert list(run_dir.iterdir()) == []
    return process.returncode, said + complained


def digest_in(text: str) -> str:
    found = re.findall(r"^digest +([0-9a-f]{64})$", text, re.MULTILINE)
    assert len(found) == 1, text
    return str(found[0])


def test_the_digest_is_the_same_for_other_workers_and_with_kills(run_dir: Path, files: Path) -> None:
    """Goal: what the demo promises. Method: one CPU worker; then two, while workers of both kinds are killed."""
    code, calm = demo(run_dir, "--cpu-workers", "1", str(files))
    assert code == 0, calm
    code, wild = demo(run_dir, "--cpu-workers", "2", "--kill-workers", str(files))
    assert code == 0, wild
    assert wild.count("kill -9 gpu-") == 1
    assert wild.count("kill -9 cpu-") == 1
    assert digest_in(calm) == digest_in(wild)
    for text in (calm, wild):
        # 24 files of which four are not shown to the model: 5 tasks for each of the others, 3 for each of those
        assert f"tasks      {20 * 5 + 4 * 3} in " in text
        assert "model      ran 20 times on " in text
        assert f"they will come to {20 * 5 + 4 * 3} tasks: 3 for each file" in text
        assert f"these are the {20 * 5 + 4 * 3} tasks of the run and the one that asked for the report" in text
        assert "verified   every turn came out the same again" in text
        assert re.search(r"^empty +1 +0$", text, re.MULTILINE), text
        assert re.search(rf"^all +24 +{sum(path.stat().st_size for path in files.iterdir()):,}$", text, re.MULTILINE)


def test_a_failed_task_shows_and_fails_the_demo(run_dir: Path, files: Path, tmp_path: Path) -> None:
    """Goal: no success is claimed when tasks fail. Method: `tally`, which cannot read files, in place of `features`."""
    agents = tmp_path / "agents"
    agents.mkdir()
    for name, module in (("features", "tally"), ("tally", "tally"), ("reporter", "reporter")):
        shutil.copy(AGENTS / f"{module}.wasm", agents / f"{name}.wasm")
    program = ["-c", WITH_AGENTS, str(SCRIPTS), str(agents)]
    code, text = demo(run_dir, "--cpu-workers", "1", "--files", "3", str(files), program=program)
    assert code == 1, text
    assert text.count("FAILED     task ") == 3
    assert "bad_payload: send MessagePack [label, path, size, score]" in text
    assert "the table holds 0 files, 3 were submitted" in text


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_an_interrupt_ends_everything(run_dir: Path, files: Path) -> None:
    """Goal: Ctrl-C leaves no process and no file. Method: send it as soon as the processes run."""
    with started(run_dir, [str(files)]) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("processes"):
                break
        process.send_signal(signal.SIGINT)
        said, complained = process.communicate(timeout=DEMO_SECONDS_MAX)
    assert process.returncode == 130, said + complained
    assert "interrupted" in complained
    assert list(run_dir.iterdir()) == []
