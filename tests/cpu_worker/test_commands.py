"""Commands, and WASI under agents and functions: real guests over both call paths, in this and in other processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rota.common.bundle import encode_bundle, new_bundle
from rota.common.digests import digest
from rota.common.errors import CodeError
from rota.common.wasi_imports import WASI_IMPORTS
from rota.common.work import COMMAND, Code, Done, Failed, FoldResult, Limits

IMPORT = '(import "wasi_snapshot_preview1" "{name}" (func ${name} (param {params}) (result i32)))'


def imports(*names: str) -> str:
    return "".join(IMPORT.format(name=name, params=" ".join(WASI_IMPORTS[name].params)) for name in names)


EXIT = '(import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))'

# A command that reads up to 60,000 bytes of its input and does what the first one says: `c` copies the input to its
# output, `x` writes it to standard error and exits with the second byte, `t` traps, `s` spins, `r` writes 16 bytes of
# chance and the time, `f` copies the file /data.txt to its output, `g` grows its memory by 100 pages and exits with the
# answer's low bits.
TOOL = f"""(module {imports("fd_read", "fd_write", "random_get", "clock_time_get", "path_open")} {EXIT}
  (memory (export "memory") 2) (data (i32.const 64) "data.txt")
  (func $put (param $number i32) (param $from i32) (param $size i32)
    (i32.store (i32.const 16) (local.get $from)) (i32.store (i32.const 20) (local.get $size))
    (drop (call $fd_write (local.get $number) (i32.const 16) (i32.const 1) (i32.const 8))))
  (func $get (param $number i32) (result i32)
    (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (i32.const 60000))
    (drop (call $fd_read (local.get $number) (i32.const 16) (i32.const 1) (i32.const 8))) (i32.load (i32.const 8)))
  (func (export "_start") (local $size i32) (local $what i32)
    (local.set $size (call $get (i32.const 0)))
    (local.set $what (i32.load8_u (i32.const 1024)))
    (if (i32.eq (local.get $what) (i32.const 0x63))
      (then (call $put (i32.const 1) (i32.const 1024) (local.get $size))))
    (if (i32.eq (local.get $what) (i32.const 0x78))
      (then (call $put (i32.const 2) (i32.const 1024) (local.get $size))
        (call $proc_exit (i32.load8_u (i32.const 1025)))))
    (if (i32.eq (local.get $what) (i32.const 0x74)) (then unreachable))
    (if (i32.eq (local.get $what) (i32.const 0x73)) (then (loop $again (br $again))))
    (if (i32.eq (local.get $what) (i32.const 0x72))
      (then (drop (call $random_get (i32.const 1024) (i32.const 16)))
        (drop (call $clock_time_get (i32.const 0) (i64.const 0) (i32.const 1040)))
        (call $put (i32.const 1) (i32.const 1024) (i32.const 24))))
    (if (i32.eq (local.get $what) (i32.const 0x66))
      (then (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 0) (i64.const 2)
          (i64.const 0) (i32.const 0) (i32.const 12)))
        (call $put (i32.const 1) (i32.const 1024) (call $get (i32.load (i32.const 12))))))
    (if (i32.eq (local.get $what) (i32.const 0x67))
      (then (call $proc_exit (i32.and (memory.grow (i32.const 100)) (i32.const 0xff)))))))"""


@pytest.fixture
def command(world: Any) -> Callable[..., Code]:
    """Puts a program and its bundle into the folder of modules; returns the code that a deploy would bind."""

    def make(text: str, *, files: dict[str, bytes] | None = None, start: str = "", **limits: Any) -> Code:
        data = encode_bundle(new_bundle(world.function(text).digest, files=files))
        (world.modules_dir / f"{digest(data).hex()}.bundle").write_bytes(data)
        return Code(digest(data), COMMAND, exports=(("start", start),) if start else (), limits=Limits(**limits))

    return make


def both(world: Any, run: Any, code: Code, *tasks: Any) -> FoldResult:
    """Run on both call paths, which must agree."""
    raw = run(world.executor(raw_calls=True), code, *tasks)
    assert run(world.executor(raw_calls=False), code, *tasks) == raw
    return raw


def test_each_end_of_a_command(world: Any, run: Any, command: Any) -> None:
    """Goal: result, exit code, log, trap, fuel and memory come out as documented, on both paths, each task by itself.

    Method: one program, one payload for each end, twice over in one fold.
    """
    code = command(TOOL, files={"data.txt": b"of the deploy"}, fuel=10_000_000, memory_bytes=4 << 20)
    payloads = [b"copy me", b"x\3 said so\nlast\n", b"x\0 fine", b"trap", b"spin", b"file", b"grow", b""]
    outcomes = both(world, run, code, *payloads * 2).outcomes
    assert outcomes[:8] == outcomes[8:]
    copied, failed, fine, trapped, spun, file, grown, nothing = outcomes[:8]
    results = [outcome.result for outcome in (copied, file, nothing)]  # type: ignore[union-attr]
    assert results == [b"copy me", b"of the deploy", b""]
    assert (failed.kind, failed.message) == ("error", "exit 3: last")  # type: ignore[union-attr]
    assert failed.log == ("x\x03 said so", "last")
    assert (fine.result, fine.log) == (b"", ("x\x00 fine",))  # type: ignore[union-attr]
    assert (trapped.kind, trapped.message) == ("trap", "unreachable in _start")  # type: ignore[union-attr]
    assert (spun.kind, spun.fuel) == ("fuel", 10_000_000)  # type: ignore[union-attr]
    assert grown.message == "exit 255: it has written nothing to standard error"  # type: ignore[union-attr]


def test_a_result_has_its_bound(world: Any, run: Any, command: Any) -> None:
    """Goal: as much as result_bytes says, not one more. Method: two payloads around it."""
    at, over = both(world, run, command(TOOL, result_bytes=100), b"c" * 100, b"c" * 101).outcomes
    assert isinstance(at, Done)
    assert isinstance(over, Failed)
    assert (over.kind, over.message) == ("bad_output", "standard output: more than 100 bytes (result_bytes)")


def test_fuel_is_exact_across_host_calls(world: Any, run: Any, command: Any) -> None:
    """Goal: a limit of what it used is enough, one less is not. Method: run, then run with both."""
    used = run(world.executor(), command(TOOL), b"copy me").outcomes[0].fuel
    assert used > 4_000
    enough = both(world, run, command(TOOL, fuel=used), b"copy me").outcomes[0]
    assert (enough.result, enough.fuel) == (b"copy me", used)  # type: ignore[union-attr]
    for less in (used - 1, used - 7, 4_000, 1_000, 1):
        outcome = both(world, run, command(TOOL, fuel=less), b"copy me").outcomes[0]
        assert (outcome.kind, outcome.fuel) == ("fuel", less)  # type: ignore[union-attr]


def test_time_and_chance_are_the_tasks_own(world: Any, run: Any, command: Any, task: Any) -> None:
    """Goal: now_ms and the turn decide. Method: the same task twice, one at another time, one of another turn."""
    tasks = [task(b"r"), task(b"r"), task(b"r", now_ms=5), task(b"r", turn=2)]
    first, again, later, other = [outcome.result for outcome in both(world, run, command(TOOL), *tasks).outcomes]
    assert first == again
    assert first[:16] == later[:16] != other[:16]
    assert int.from_bytes(first[16:], "little") == 1_700_000_000_000_001_000
    assert int.from_bytes(later[16:], "little") == 5_001_000


def test_the_same_in_another_process(world: Any, run: Any, command: Any) -> None:
    """Goal: result, log and fuel are those of every process. Method: a second interpreter with another hash seed."""
    code = command(TOOL, files={f"f{index}": b"" for index in range(9)} | {"data.txt": b"text"})
    payloads = (b"copy", b"x\1 no", b"r", b"file")
    here = repr(run(world.executor(), code, *payloads).outcomes)
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1] / "kits")!r})
from pathlib import Path
from sandbox_kit import LANE_SEED, World, make_task
from rota.common.work import *
world = World(Path({str(world.modules_dir)!r}), Path({str(world.artefacts_dir)!r}))
code = Code(bytes.fromhex({code.digest.hex()!r}), "command")
tasks = tuple(make_task(payload) for payload in {payloads!r})
executor = world.executor()
print(repr(executor.run(Fold(LANE_SEED, code, "counter/alice", None, tasks)).outcomes))
executor.close()
"""
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert there.stdout.strip() == here


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('(module (memory (export "memory") 1))', "no export '_start'"),
        ('(module (func (export "_start")))', "no export 'memory'"),
        ('(module (memory (export "memory") 1) (func (export "_start") (param i32)))', "'_start' is func"),
        (
            '(module (import "wasi_snapshot_preview1" "fd_read" (func)) (memory (export "memory") 1) '
            '(func (export "_start")))',
            "fd_read' as func",
        ),
        (
            '(module (import "env" "system" (func)) (memory (export "memory") 1) (func (export "_start")))',
            "env.system",
        ),
    ],
)
def test_a_program_that_is_none_is_refused(world: Any, run: Any, command: Any, text: str, message: str) -> None:
    """Goal: the deploy says what is wrong, and so does a run. Method: one fault at a time."""
    code = command(text)
    executor = world.executor()
    with pytest.raises(CodeError, match=message):
        executor.prepare(code, "tool")
    result = run(executor, code, b"x")
    assert (result.outcomes, result.stopped) == ((), "refused")


def test_a_missing_bundle_or_module_is_refused(world: Any, run: Any, command: Any) -> None:
    """Goal: what is not there is named, in preparation as in a run. Method: remove the module, then the bundle."""
    code = command(TOOL)
    executor = world.executor()
    for pattern, what in (("*.wasm", "module file"), ("*.bundle", "bundle file")):
        for path in world.modules_dir.glob(pattern):
            path.unlink()
        assert what in run(executor, code, b"x").reason
    preparation = executor.preparation(code)
    assert preparation is not None
    with pytest.raises(CodeError, match=what):
        preparation()


# An agent-like function: it writes its payload to standard output, then exits with the first byte, or answers it.
TALKER = f"""(module {imports("fd_write", "fd_prestat_get")} {EXIT}
  (memory (export "memory") 1) (global $seen (mut i32) (i32.const 0))
  (func $begin (global.set $seen (call $fd_prestat_get (i32.const 3) (i32.const 0)))) (start $begin)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param $p i32) (param $n i32) (result i64)
    (i32.store (i32.const 16) (local.get $p)) (i32.store (i32.const 20) (local.get $n))
    (drop (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 8)))
    (if (i32.ne (i32.load8_u (local.get $p)) (i32.const 0x30)) (then (call $proc_exit (i32.const 3))))
    (i32.store8 (local.get $p) (i32.add (i32.const 0x41) (global.get $seen)))
    (i64.or (i64.shl (i64.extend_i32_u (local.get $p)) (i64.const 32)) (i64.extend_i32_u (local.get $n)))))"""


@pytest.mark.parametrize("reuse", [False, True])
def test_functions_may_use_wasi(world: Any, run: Any, reuse: bool) -> None:
    """Goal: output goes to the log, an exit is a trap, and start functions may call. Method: both paths, and reuse."""
    code = world.function(TALKER, reuse=reuse)
    answered, ended, again = both(world, run, code, b"0 one\ntwo", b"1", b"0").outcomes
    assert (answered.result, answered.log) == (b"A one\ntwo", ("0 one", "two"))  # type: ignore[union-attr]
    assert (ended.kind, ended.log[0]) == ("trap", "1")  # type: ignore[union-attr]
    assert ended.message == "proc_exit(3) in rota_call"  # type: ignore[union-attr]
    assert again.result == b"A"  # type: ignore[union-attr]


def test_another_export_may_be_the_start(world: Any, run: Any, command: Any) -> None:
    """Goal: a program with another start runs as it is. Method: `_initialize`, then an export that gives a code."""
    text = """(module (memory (export "memory") 1) (global $made (mut i32) (i32.const 0))
      (func (export "_initialize") (global.set $made (i32.add (global.get $made) (i32.const 7))))
      (func (export "main") (result i32) (global.get $made))
      (func (export "quiet") (result i32) (i32.const 0)) (func (export "wrong") (param i32)))"""
    (failed,) = both(world, run, command(text, start="main"), b"").outcomes
    assert failed.message == "exit 7: it has written nothing to standard error"  # type: ignore[union-attr]
    (done,) = both(world, run, command(text, start="quiet"), b"").outcomes
    assert isinstance(done, Done)
    for start, message in (("wrong", "'wrong' is func"), ("gone", "no export 'gone'"), ("", "no export '_start'")):
        with pytest.raises(CodeError, match=message):
            world.executor().prepare(command(text, start=start), "tool")


def test_a_program_that_does_nothing_is_done(world: Any, run: Any, command: Any) -> None:
    """Goal: its result is empty, not missing. Method: an empty start."""
    text = '(module (memory (export "memory") 1) (func (export "_start")))'
    (outcome,) = both(world, run, command(text), b"ignored").outcomes
    assert outcome == Done(b"", None, (), (), outcome.fuel, ())
