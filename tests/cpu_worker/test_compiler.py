"""Artefacts: made once, shared, and not used if changed, renamed or foreign."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from rota.common.digests import digest
from rota.common.errors import CodeError, ConfigError
from rota.common.work import AGENT, TELL, Code, Done, Fold, TaskInput
from rota.cpu_worker import compiler as compiler_module
from rota.cpu_worker.artefacts import KEY_FILE, read_or_make_key
from rota.cpu_worker.compiler import SUFFIX, Compiler
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.profile import new_engine
from rota.worker.executor import Ended, Outside, Work
from rota.worker.fold_executor import FoldExecutor

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "artefacts"


def artefacts(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def load(folder: Path, wasm: bytes) -> int:
    """Load with a compiler of its own and return how often it had to compile."""
    made = Compiler(new_engine(), folder)
    made.load(wasm, digest(wasm))
    return made.compiled_count


def test_compiled_once_and_then_loaded(folder: Path, guests: Any) -> None:
    """Goal: a second worker loads what the first compiled; nothing else is left in the folder.

    Method: two compilers, one folder.
    """
    wasm = bytes(wat2wasm(guests["echo"]))
    assert [load(folder, wasm), load(folder, wasm)] == [1, 0]
    assert [path.name for path in folder.iterdir() if path.suffix != SUFFIX] == [KEY_FILE]
    if os.name == "posix":
        assert (folder / KEY_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("position", [0, 40, -1])
def test_changed_artefact_is_compiled_again(folder: Path, guests: Any, position: int) -> None:
    """Goal: no changed byte is ever loaded.

    Method: flip one in the MAC, in the head and at the end; the good bytes come back.
    """
    wasm = bytes(wat2wasm(guests["echo"]))
    load(folder, wasm)
    (path,) = artefacts(folder)
    good = path.read_bytes()
    bad = bytearray(good)
    bad[position] ^= 1
    path.write_bytes(bad)
    assert load(folder, wasm) == 1
    assert path.read_bytes() == good


def test_truncated_and_empty_artefacts_are_compiled_again(folder: Path, guests: Any) -> None:
    """Goal: a torn file is no error. Method: cut it to half, to less than a MAC, to nothing."""
    wasm = bytes(wat2wasm(guests["echo"]))
    load(folder, wasm)
    (path,) = artefacts(folder)
    for size in (len(path.read_bytes()) // 2, 10, 0):
        path.write_bytes(path.read_bytes()[:size])
        assert load(folder, wasm) == 1


def test_artefact_under_another_name_is_compiled_again(folder: Path, guests: Any) -> None:
    """Goal: good code of one module cannot pose as another's. Method: copy one artefact over the other."""
    one, other = bytes(wat2wasm(guests["echo"])), bytes(wat2wasm(guests["mischief"]))
    load(folder, one)
    (path_of_one,) = artefacts(folder)
    load(folder, other)
    (path_of_other,) = [path for path in artefacts(folder) if path != path_of_one]
    path_of_other.write_bytes(path_of_one.read_bytes())
    assert load(folder, other) == 1


def test_artefact_of_another_key_is_compiled_again(tmp_path: Path, guests: Any) -> None:
    """Goal: an artefact from a foreign folder has neither the right name nor the right MAC.

    Method: copy it over by both names.
    """
    wasm = bytes(wat2wasm(guests["echo"]))
    load(tmp_path / "one", wasm)
    load(tmp_path / "other", wasm)
    (foreign,), (own,) = artefacts(tmp_path / "one"), artefacts(tmp_path / "other")
    assert foreign.name != own.name
    own.write_bytes(foreign.read_bytes())
    assert load(tmp_path / "other", wasm) == 1


def test_key_that_cannot_be_trusted(folder: Path) -> None:
    """Goal: a short key, or one that others can read, stops the worker. Method: one of each."""
    Compiler(new_engine(), folder)
    key = folder / KEY_FILE
    if os.name == "posix":
        key.chmod(0o644)
        with pytest.raises(ConfigError, match="can be read by others"):
            Compiler(new_engine(), folder)
        key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(ConfigError, match="has 5 bytes, not 32"):
        Compiler(new_engine(), folder)


def test_workers_that_race_share_one_key(folder: Path) -> None:
    """Goal: however many start at once, one key wins and no file is left over.

    Method: eight threads behind a barrier.
    """
    folder.mkdir()
    barrier = threading.Barrier(8)
    keys: list[bytes] = []

    def make() -> None:
        barrier.wait()
        keys.append(read_or_make_key(folder / KEY_FILE))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len({*keys}) == 1
    assert [path.name for path in folder.iterdir()] == [KEY_FILE]


@pytest.mark.parametrize(
    ("wasm", "message"),
    [
        (b"not wasm", "not WebAssembly of the profile"),
        (bytes(wat2wasm('(module (memory i64 1))')), "not WebAssembly of the profile"),
        (bytes(wat2wasm('(module (memory 1) (memory 1))')), "not WebAssembly of the profile"),
        (bytes(wat2wasm('(module (memory 1 1 shared))')), "not WebAssembly of the profile"),
    ],
)  # fmt: skip
def test_module_that_does_not_compile(folder: Path, wasm: bytes, message: str) -> None:
    """Goal: garbage and features outside the profile are a typed error.

    Method: garbage, memory64, two memories, shared memory.
    """
    with pytest.raises(CodeError, match=message):
        load(folder, wasm)
    assert artefacts(folder) == []


def test_limits_of_the_compile_process(monkeypatch: pytest.MonkeyPatch, guests: Any) -> None:
    """Goal: a compile that is too large, or takes too long, is a typed error that names the bound.

    Method: tiny bounds.
    """
    wasm = bytes(wat2wasm(guests["echo"]))
    monkeypatch.setattr(compiler_module, "MODULE_BYTES_MAX", len(wasm) - 1)
    with pytest.raises(CodeError, match=f"has {len(wasm)} bytes, at most {len(wasm) - 1}"):
        compiler_module.compile_apart(wasm, digest(wasm))
    monkeypatch.setattr(compiler_module, "MODULE_BYTES_MAX", len(wasm))
    monkeypatch.setattr("rota.cpu_worker.compile_main.COMPILE_MS_MAX", 1)
    with pytest.raises(CodeError, match="took longer than 1 ms"):
        compiler_module.compile_apart(wasm, digest(wasm))


def test_compiling_ahead_can_be_stopped(folder: Path, guests: Any) -> None:
    """Goal: a worker that ends leaves no compiler behind. Method: a module that takes seconds, stopped as soon as its
    process is there; then nothing more is compiled.
    """
    steps = "(drop (i32.mul (i32.const 3) (i32.const 5)))" * 2_000
    wasm = bytes(wat2wasm(guests["echo"].rstrip()[:-1] + f"(func {steps})" * 300 + ")"))
    compiler = Compiler(new_engine(), folder)
    failed: list[CodeError] = []

    def make() -> None:
        try:
            compiler.make(wasm, digest(wasm))
        except CodeError as error:
            failed.append(error)

    thread = threading.Thread(target=make)
    thread.start()
    while not compiler._shots.processes and thread.is_alive():
        pass
    compiler.stop()
    thread.join()
    assert len(failed) == 1
    assert not compiler.is_made(digest(wasm))
    with pytest.raises(CodeError, match="ending"):
        compiler.make(wasm, digest(wasm))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL to send")
def test_a_killed_compiler_is_a_fault_of_the_host(tmp_path: Path) -> None:
    """Goal: a host that kills the compiler costs a try, not the task. Method: SIGKILL the process that a fold waits
    for; the same fold again.
    """
    wasm = (ROOT / "examples" / "agents" / "echo.wasm").read_bytes()
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / f"{digest(wasm).hex()}.wasm").write_bytes(wasm)
    runner = WasmExecutor(tmp_path / "modules", tmp_path / "artefacts", None, lambda: time.monotonic() * 1000)
    executor = FoldExecutor(lambda overran: runner, Outside(lambda: None, lambda report: None))
    task = TaskInput(1, TELL, None, b"x", 0, None, (), 1, 1)
    fold = Fold(bytes(32), Code(digest(wasm), AGENT), "echo/a", None, (task,))
    stopped = []
    with closing(executor):
        for number in (1, 2):
            executor.take(Work(number, (fold,)))
            ended: list[Ended] = []
            while not ended:
                ended = [one for one in executor.step() if isinstance(one, Ended)]
                for pid in list(runner._compiler._shots.processes) if number == 1 else ():
                    with suppress(ProcessLookupError):  # it has just ended by the kill before
                        os.kill(pid, signal.SIGKILL)
            stopped.append((ended[0].results or ())[0])
    assert stopped[0].stopped == "faulted", stopped[0].reason
    assert "was killed from outside" in stopped[0].reason
    assert type(stopped[1].outcomes[0]) is Done


def test_compiled_ahead_is_loaded_without_the_folder(folder: Path, guests: Any) -> None:
    """Goal: what was compiled beside other work is not compiled again, even where nothing can be kept. Method: compile
    ahead, remove the artefact, load.
    """
    wasm = bytes(wat2wasm(guests["echo"]))
    compiler = Compiler(new_engine(), folder)
    assert not compiler.is_made(digest(wasm))
    compiler.make(wasm, digest(wasm))
    (artefact,) = artefacts(folder)
    artefact.unlink()
    assert compiler.is_made(digest(wasm))
    compiler.load(wasm, digest(wasm))
    assert compiler.compiled_count == 1


def test_a_folder_in_place_of_an_artefact_is_compiled_around(folder: Path, guests: Any) -> None:
    """Goal: what lies in the way of an artefact ends no worker. Method: a folder of its name, twice."""
    wasm = bytes(wat2wasm(guests["echo"]))
    load(folder, wasm)
    (path,) = artefacts(folder)
    path.unlink()
    path.mkdir()
    assert [load(folder, wasm), load(folder, wasm)] == [1, 1]
    assert [entry.name for entry in folder.iterdir() if entry.suffix != SUFFIX] == [KEY_FILE]


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Goal: a sentence instead of a traceback. Method: a file in place of the folder, a folder in place of the key."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "artefacts" / KEY_FILE).mkdir(parents=True)
    for folder in (tmp_path / "file", tmp_path / "artefacts"):
        with pytest.raises(ConfigError, match=f"{folder} cannot be used: .* delete it"):
            Compiler(new_engine(), folder)
