"""Memory refused by the host is never visible in a result: guests under real limits, each in its own process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts like this on Linux only")

MIB = 1 << 20
UNLIMITED = -1

# Lets itself be limited, runs a fold per code and prints what came out. `late`: bytes of data left after the first one.
CHILD = """
import json, resource, sys, time
limits, modules, artefacts, codes, fields, payloads, raw, raised, late = json.loads(sys.stdin.read())
for name, pair in limits.items():
    resource.setrlimit(getattr(resource, name), tuple(pair))
from pathlib import Path
from rota.common.work import Code, Fold, Limits, TaskInput
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.host_limits import raise_limits
if raised:
    raise_limits()
executor = WasmExecutor(Path(modules), Path(artefacts), None, lambda: time.monotonic() * 1000, raw_calls=raw)
for digest, reuse, limits in codes:
    code = Code(bytes.fromhex(digest), "function", reuse, limits=Limits(**limits))
    tasks = tuple(TaskInput(**fields)._replace(payload=bytes.fromhex(one), tensors=()) for one in payloads)
    result = executor.run(Fold(bytes(32), code, "x", None, tasks))
    if late:
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + late, used + late))
        late = 0
    print(json.dumps([[repr(one) for one in result.outcomes], result.stopped, result.reason]))
executor.close()
"""

# Grows by 15,000 pages (983 MB) if its payload's first byte is 1, and answers what memory.grow returned; or hides it.
GROWER = """(module (memory (export "memory") 1)
  (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
  (func (export "rota_call") (param $p i32) (param $n i32) (result i64) (local $what i32)
    (local.set $what (i32.load8_u (local.get $p)))
    (if (i32.eq (local.get $what) (i32.const 1))
      (then (i32.store (i32.const 1024) (memory.grow (i32.const 15000)))))
    (if (i32.eq (local.get $what) (i32.const 2)) (then (drop (memory.grow (i32.const 15000)))))
    (if (i32.eq (local.get $what) (i32.const 3))
      (then (if (i32.eq (memory.grow (i32.const 15000)) (i32.const -1)) (then unreachable))))
    (i64.const 0x400_0000_0004)))"""


class Child:
    """Runs folds of one code, or of several one after the other, in a process with limits."""

    def __init__(self, world: Any, task: Any) -> None:
        self._world = world
        self._fields = task()._replace(payload="")._asdict()

    def start(
        self,
        codes: list[Any],
        payloads: list[bytes],
        *,
        raw: bool = True,
        raised: bool = False,
        late: int = 0,
        **limits: Any,
    ) -> subprocess.CompletedProcess[str]:
        described = [[code.digest.hex(), code.reuse, code.limits._asdict()] for code in codes]
        folders = [str(self._world.modules_dir), str(self._world.artefacts_dir)]
        asked = [limits, *folders, described, self._fields, [one.hex() for one in payloads], raw, raised, late]
        return subprocess.run(
            [sys.executable, "-c", CHILD], input=json.dumps(asked), text=True, capture_output=True, check=False
        )

    def run(self, codes: list[Any], payloads: list[bytes], **settings: Any) -> list[Any]:
        done = self.start(codes, payloads, **settings)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def child(world: Any, task: Any) -> Child:
    return Child(world, task)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "public"])
@pytest.mark.parametrize("what", [b"\1", b"\2", b"\3"], ids=["shown", "hidden", "trapped"])
def test_a_growth_that_the_host_refuses_is_no_result(world: Any, child: Child, what: bytes, raw: bool) -> None:
    """Goal: what a host has no memory for is a fault of this host, whatever the guest makes of it.

    Method: a growth within the task's limit under RLIMIT_DATA, between two small tasks that must not suffer.
    """
    code = world.function(GROWER, memory_bytes=1 << 30)
    limit = 900_000 * 1024
    ((outcomes, stopped, reason),) = child.run([code], [b"\0", what, b"\0"], raw=raw, RLIMIT_DATA=[limit, limit])
    assert (len(outcomes), stopped) == (1, "faulted")
    assert "host refused memory within the limits of the task" in reason
    assert f"{limit} bytes of data (ulimit -d)" in reason


def test_a_growth_takes_no_address_space(world: Any, child: Child, run: Any) -> None:
    """Goal: a guest with room to begin has room to grow. Method: address space for one guest only, less than twice."""
    code, room = world.function(GROWER, memory_bytes=1 << 30), 6 << 30
    here = run(world.executor(), code, b"\1")
    ((outcomes, stopped, _),) = child.run([code], [b"\1"], RLIMIT_AS=[room, room])
    assert here.outcomes[0].result == b"\1\0\0\0"
    assert (outcomes, stopped) == ([repr(here.outcomes[0])], None)


def test_past_its_own_limit_a_growth_is_a_result_everywhere(world: Any, child: Child, run: Any) -> None:
    """Goal: -1 past the task's limit stays a result, equal with and without limits of the host. Method: both."""
    code = world.function(GROWER, memory_bytes=900 * MIB)
    here = run(world.executor(), code, b"\1")
    ((outcomes, stopped, _),) = child.run([code], [b"\1"], RLIMIT_DATA=[900 * MIB, 900 * MIB])
    assert here.outcomes[0].result == b"\xff\xff\xff\xff"
    assert (outcomes, stopped) == ([repr(here.outcomes[0])], None)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "public"])
def test_both_sources_of_memory_agree(world: Any, guests: Any, child: Child, run: Any, raw: bool) -> None:
    """Goal: no outcome, fuel or byte tells where memory came from. Method: every mischief, with data in the module."""
    text = guests["mischief"][:-1] + '(data (i32.const 600) "image") (data "passive"))'
    payloads = [bytes([what]) for what in (0, 1, 2, 3, 5, 6, 7, 8, 10, 32)] * 2
    codes = [world.function(text, reuse=reuse, fuel=10_000_000, memory_bytes=6 << 20) for reuse in (False, True)]
    enough = 64 << 30
    watched = child.run(codes, payloads, raw=raw, RLIMIT_DATA=[enough, enough])
    executor = world.executor(raw_calls=raw)
    for code, (outcomes, stopped, _) in zip(codes, watched, strict=True):
        assert (outcomes, stopped) == ([repr(one) for one in run(executor, code, *payloads).outcomes], None)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "public"])
def test_a_table_that_the_host_has_no_room_for(world: Any, child: Child, run: Any, raw: bool) -> None:
    """Goal: `table.grow` shows the host as little as `memory.grow`. Method: to its bound and past it, with both
    sources of memory; then again with 4 MiB of data left, where the bound takes 8.
    """
    text = """(module (memory (export "memory") 1) (table $t 1 funcref)
      (func (export "rota_alloc") (param i32) (result i32) i32.const 1024)
      (func (export "rota_call") (param $p i32) (param $n i32) (result i64)
        (i32.store (i32.const 0)
          (table.grow $t (ref.null func) (i32.mul (i32.const 1048575) (local.get $n)))) (i64.const 4)))"""
    code, enough = world.function(text), 64 << 30
    here = run(world.executor(raw_calls=raw), code, b"x", b"xx")
    assert [one.result for one in here.outcomes] == [b"\1\0\0\0", b"\xff\xff\xff\xff"]
    first, again = child.run([code] * 2, [b"x", b"xx"], raw=raw, late=4 << 20, RLIMIT_DATA=[enough, enough])
    assert first == [[repr(one) for one in here.outcomes], None, ""]
    assert (again[0], again[1]) == ([], "faulted")
    assert "out of memory" in again[2]


def test_kept_instances_make_room(world: Any, guests: Any, child: Child) -> None:
    """Goal: instances kept for `reuse` never starve a task. Method: address space for two guests, three codes."""
    codes = [world.function(guests["echo"], reuse=True, result_bytes=size) for size in (100, 101, 102)]
    room = 10 << 30
    results = child.run(codes, [b"x"], RLIMIT_AS=[room, room])
    assert [(len(outcomes), stopped) for outcomes, stopped, _ in results] == [(1, None)] * 3


def test_soft_limits_are_raised(world: Any, child: Child) -> None:
    """Goal: a soft limit that may be raised costs nothing. Method: a growth far above it."""
    code = world.function(GROWER, memory_bytes=1 << 30)
    soft = [900_000 * 1024, UNLIMITED]
    ((outcomes, stopped, _),) = child.run([code], [b"\1"], raised=True, RLIMIT_DATA=soft)
    assert "result=b'\\x01\\x00\\x00\\x00'" in outcomes[0]
    assert stopped is None


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"RLIMIT_AS": 2 << 30}, "ulimit -v unlimited"),
        ({"RLIMIT_DATA": 48 << 20}, "ulimit -d unlimited"),
        ({"RLIMIT_DATA": 128 << 20}, "ulimit -d unlimited"),
    ],
    ids=["address space", "little data", "less data than an agent's"],
)
def test_a_worker_that_cannot_have_its_memory_says_so(tmp_path: Path, limits: dict[str, int], said: str) -> None:
    """Goal: a sentence and exit code 78, no abort. Method: a worker process that may have too little."""
    import resource

    def limit() -> None:
        for name, value in limits.items():
            resource.setrlimit(getattr(resource, name), (value, value))

    command = [sys.executable, "-m", "rota.cpu_worker", "--dir", str(tmp_path)]
    done = subprocess.run(command, preexec_fn=limit, text=True, capture_output=True, check=False)
    assert done.returncode == 78, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_compiler_with_little_memory_does_not_blame_the_module(guests: Any) -> None:
    """Goal: limits below the compiler's own are kept to, and who gets too little is told so.

    Method: address space that suffices for a small module, and then less than the compiler's library takes.
    """
    script = """
import resource, sys
from wasmtime import wat2wasm
from rota.common.errors import CodeError
from rota.cpu_worker.compiler import compile_apart
wasm = bytes(wat2wasm(sys.stdin.read()))
for size in (1 << 30, 50 << 20):
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    try:
        print(len(compile_apart(wasm, bytes(32))))
    except CodeError as error:
        print(error.message)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, input=guests["echo"], text=True, capture_output=True, check=False)
    size, message = done.stdout.split("\n", 1)
    assert int(size) > 1000, done.stderr
    assert "this worker may have only 52428800 bytes of address space (ulimit -v)" in message
    assert "give this worker more memory" in message
    assert "make the module smaller" not in message


@pytest.mark.parametrize("threaded", [False, True], ids=["main thread", "thread"])
def test_a_stack_too_small_for_agents_is_named(world: Any, guests: Any, threaded: bool) -> None:
    """Goal: recursion of a guest ends no process that runs agents itself. Method: half of the stack that they need."""
    script = f"""
import threading, time
from pathlib import Path
from rota.common.errors import ConfigError
from rota.cpu_worker.executor import WasmExecutor
def make():
    try:
        WasmExecutor(Path({str(world.modules_dir)!r}), Path({str(world.artefacts_dir)!r}), None, time.monotonic)
    except ConfigError as error:
        print(error.message)
if {threaded}:
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
else:
    make()
"""
    command = ["bash", "-c", f"ulimit -s 1024; exec {sys.executable} -"]
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "agents need a stack of 8388608 bytes" in done.stdout
    assert "ulimit -s" in done.stdout
