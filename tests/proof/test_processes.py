"""Worker processes of `rota verify`: the same results as in this process, even if some die; none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from rota.common.digests import digest
from rota.common.errors import ConfigError, LocalError
from rota.common.work import AGENT, FUNCTION, MODEL, Code, Fold, FoldResult, Limits, ReplyTo, TaskInput, TensorRef
from rota.engine.executors import Executors, Folders
from rota.host.process_watch import ProcessWatch
from rota.proof.frames import RunFolds, decode_request, decode_results, encode_request, encode_results
from rota.proof.processes import KILLS_MAX, Kills, Processes

AGENTS = Path(__file__).resolve().parents[2] / "examples" / "agents"
WAIT_SECONDS = 60.0
# A function that does not end.
ENDLESS = """(module (memory (export "memory") 1)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param i32 i32) (result i64) (loop $again (br $again)) i64.const 0))"""
# Runs an endless fold in two processes, and prints who does once they do.
PARENT = """
import sys, threading, time
from pathlib import Path
from rota.common.work import FUNCTION, Code, Fold, Limits, TaskInput
from rota.engine.executors import Folders
from rota.proof.processes import Processes

root, digest = Path(sys.argv[1]), bytes.fromhex(sys.argv[2])
folders = Folders(modules=root / "modules", artefacts=root / "artefacts", models=root, tensors=root / "tensors")
code = Code(digest, FUNCTION, limits=Limits(fuel=1 << 60, timeout_ms=3_600_000))
folds = [Fold(bytes(32), code, "endless", None, (TaskInput(n, "tell", None, b"", 0, None, (), 0, 0),)) for n in (1, 2)]
processes = Processes(folders, 2)

def say():
    while len(busy := processes.busy()) < 2:
        time.sleep(0.01)
    print(*busy, flush=True)

threading.Thread(target=say, daemon=True).start()
processes.run_all(folds)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Folders with the modules that tests use, and one for compiled code."""
    root = tmp_path_factory.mktemp("processes")
    (root / "modules").mkdir()
    for name in ("relay", "counter", "echo_function"):
        put_module(root / "modules", (AGENTS / f"{name}.wasm").read_bytes())
    return Folders(modules=root / "modules", artefacts=root / "artefacts", models=root, tensors=root / "tensors")


@pytest.fixture(scope="module")
def here(folders: Folders) -> Iterator[Executors]:
    with Executors(folders, device="cpu") as executors:
        yield executors


def put_module(modules: Path, wasm: bytes) -> bytes:
    found = digest(wasm)
    (modules / f"{found.hex()}.wasm").write_bytes(wasm)
    return found


def code(name: str, kind: str = AGENT) -> Code:
    return Code(digest((AGENTS / f"{name}.wasm").read_bytes()), kind)


def tasks(first: int, payloads: list[bytes]) -> tuple[TaskInput, ...]:
    return tuple(
        [TaskInput(first + n, "tell", None, payload, 7, None, (), 64, 1 << 17) for n, payload in enumerate(payloads)]
    )


def mixed_folds(seed: int, count: int) -> list[Fold]:
    """Folds of agents that emit, of one that fails, and of a function, with one to forty tasks."""
    random = Random(seed)
    folds, turn = [], 1
    for number in range(count):
        size = random.choice((1, 1, 3, 40))
        if number % 3 == 2:
            payloads = [random.randbytes(random.randrange(200)) for _ in range(size)]
            folds.append(Fold(bytes(32), code("echo_function", FUNCTION), "f", None, tasks(turn, payloads)))
        else:
            payloads = [b"%d 3 24" % random.randrange(3) if random.random() < 0.9 else b"nonsense" for _ in range(size)]
            folds.append(Fold(bytes(32), code("relay"), f"relay/{number}", None, tasks(turn, payloads)))
        turn += size
    return folds


def endless(folders: Folders) -> Code:
    wasmtime = pytest.importorskip("wasmtime")
    found = put_module(folders.modules, bytes(wasmtime.wat2wasm(ENDLESS)))
    return Code(found, FUNCTION, limits=Limits(fuel=1 << 60, timeout_ms=3_600_000))


# --- frames ---------------------------------------------------------------------------------------


def test_folds_and_results_survive_the_frames(here: Executors) -> None:
    """Goal: what is run there is what was asked here. Method: folds with every kind of part, to a frame and back."""
    ref = TensorRef(bytes(range(32)), "float32", (2, 3))
    asked = TaskInput(5, "reply", "relay/1", b"\x00", 9, ReplyTo(1, 2, 3), (ref, ref), 4, 5)
    limits = Limits(fuel=5, timeout_ms=6)
    folds = [
        Fold(bytes(32), Code(bytes(32), MODEL, True, (("call", "x"),), limits), "model:m", b"state", (asked,)),
        *mixed_folds(1, 5),
    ]
    assert decode_request(encode_request(RunFolds(tuple(folds)))) == RunFolds(tuple(folds))
    results = here.run_all(folds[1:])
    assert any(one.outcomes[0].emits for one in results if hasattr(one.outcomes[0], "emits"))
    assert decode_results(encode_results(results)) == results


# --- the same despite deaths ----------------------------------------------------------------------


def test_the_same_as_in_this_process_with_and_without_kills(folders: Folders, here: Executors) -> None:
    """Goal: processes and their deaths leave no trace. Method: many folds, twice, with three processes and with two;
    the results and the fingerprint are those of an executor here.
    """
    folds = mixed_folds(2, 40)
    expected = here.run_all(folds)
    for count, kills in ((3, None), (2, Kills(2))):
        with Processes(folders, count, device="cpu", kills=kills) as processes:
            for _ in range(2):
                assert processes.run_all(folds) == expected
            assert processes.fingerprint("cpu") == here.fingerprint("cpu")
            assert processes.run_all([]) == []
            assert processes.deaths == 0
        assert kills is None or 1 <= kills.done <= KILLS_MAX


def test_a_lone_fold_is_killed_once_at_least(folders: Folders, here: Executors) -> None:
    """Goal: --kill kills at least one process. Method: the smallest work there is."""
    folds = mixed_folds(3, 1)
    kills = Kills(5)
    with Processes(folders, 2, device="cpu", kills=kills) as processes:
        assert processes.run_all(folds) == here.run_all(folds)
    assert kills.done >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL to send")
def test_what_dies_by_itself_is_replaced(folders: Folders, here: Executors) -> None:
    """Goal: accidents are survived as well. Method: kill each process that holds work, from outside; twice, because a
    third death may be one too many for a fold.
    """
    folds = mixed_folds(4, 40)
    with Processes(folders, 2, device="cpu") as processes:
        expected = here.run_all(folds)
        assert processes.run_all(folds) == expected
        killer = threading.Thread(target=kill_busy, args=(processes, 2))
        killer.start()
        while killer.is_alive():
            assert processes.run_all(folds) == expected
        killer.join()
        assert processes.deaths >= 1


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL to send")
def test_a_fold_that_kills_three_processes_is_named(folders: Folders) -> None:
    """Goal: no endless loop of deaths. Method: every process that runs an endless task is killed from outside."""
    fold = Fold(bytes(32), endless(folders), "endless", None, tasks(17, [b"y", b"z"]))
    with Processes(folders, 1, device="cpu") as processes:
        killer = threading.Thread(target=kill_busy, args=(processes, 3))
        killer.start()
        with pytest.raises(LocalError, match=r"turn 17 to 18 of endless .*3 processes .* signal 9") as caught:
            processes.run_all([fold])
        killer.join()
        assert caught.value.fields == {"turn": 17, "target": "endless"}
        assert processes.busy() == []


def kill_busy(processes: Processes, count: int) -> None:
    """Kill processes that hold folds, each once, until so many are killed."""
    killed: dict[int, None] = {}
    deadline = time.monotonic() + WAIT_SECONDS
    while len(killed) < count and time.monotonic() < deadline:
        for pid in processes.busy():
            if pid not in killed:
                killed[pid] = None
                os.kill(pid, signal.SIGKILL)
                break


# --- errors and ends ------------------------------------------------------------------------------


def test_what_a_process_refuses_is_raised_here(folders: Folders, tmp_path: Path) -> None:
    """Goal: a setting that cannot be used is said once, by name. Method: a folder of compiled code that others can read
    the key of; and a module that is not there, which is a result and no error.
    """
    unknown = Fold(bytes(32), Code(bytes(32), AGENT), "nobody", None, tasks(1, [b""]))
    with Processes(folders, 2, device="cpu") as processes:
        (result,) = processes.run_all([unknown])
        assert (tuple(result.outcomes), result.stopped) == ((), "refused")
        assert "deploy it again" in result.reason
    artefacts = tmp_path / "artefacts"
    artefacts.mkdir()
    (artefacts / "artefacts.key").write_bytes(b"short")
    bad = Folders(modules=folders.modules, artefacts=artefacts, models=tmp_path, tensors=tmp_path / "tensors")
    with Processes(bad, 2, device="cpu") as processes, pytest.raises(ConfigError, match="delete the folder"):
        processes.run_all(mixed_folds(1, 1))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL to send")
def test_processes_end_with_their_parent(folders: Folders) -> None:
    """Goal: no orphans, whatever they are doing. Method: kill a parent whose two processes run endless tasks."""
    root = folders.modules.parent
    arguments = [sys.executable, "-c", PARENT, str(root), endless(folders).digest.hex()]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            pids = list(map(int, parent.stdout.readline().split()))
            assert len(pids) == 2
            watch = ProcessWatch()
            for pid in pids:
                watch.add(str(pid), pid)
        finally:
            parent.kill()
    gone: list[str] = []
    deadline = time.monotonic() + WAIT_SECONDS
    while len(gone) < 2 and time.monotonic() < deadline:
        gone += watch.gone()
    watch.close()
    assert sorted(gone) == sorted(map(str, pids))


def test_closing_in_the_middle_ends_everything(folders: Folders) -> None:
    """Goal: an exception in the caller leaves no process. Method: close while both processes run endless tasks."""
    bad = endless(folders)
    folds = [Fold(bytes(32), bad, f"endless{n}", None, tasks(n, [b""])) for n in (1, 2)]
    processes = Processes(folders, 2, device="cpu")
    results: list[list[FoldResult]] = []
    runner = threading.Thread(target=lambda: results.append(processes.run_all(folds)), daemon=True)
    runner.start()
    deadline = time.monotonic() + WAIT_SECONDS
    while len(processes.busy()) < 2 and time.monotonic() < deadline:
        pass
    processes.close()
    assert processes.busy() == []
    assert results == []
