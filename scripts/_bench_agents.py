"""The case `agents`: what a task costs by kind and language, on the executor of a CPU worker in this process.

The bound of a module is wasmtime in a loop (_bench_bare.py) with the same input. The rows by language have none: they
say what a task costs in all.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import wasmtime
from _bench_bare import BareModule
from _demo_processes import Up
from _environment import REPOSITORY

from rota.client import Client
from rota.common.code_kinds import KINDS, content_file
from rota.common.work import AGENT, TELL, Code, Done, Fold, Limits, TaskInput
from rota.cpu_worker import abi
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.image_maker import COMPILED
from rota.runtimes.catalog import RUNTIMES
from rota.runtimes.content import Extras, content_of
from rota.runtimes.fetch import fetch_runtime
from rota.runtimes.folder import FOLDER_VARIABLE, is_fetched, runtime_path, runtimes_folder

if TYPE_CHECKING:
    from _bench_cases import Place

FOLD_TASKS: Final = 200
NOW_MS: Final = 1_700_000_000_000
STATES: Final = (0, 1 << 10, 64 << 10, 1 << 20)
STATES_BYTES_MAX: Final = 12 << 20  # of one fold, whose outcomes must fit into a message
ADDRESS: Final = "bench/0"
PAYLOAD: Final = np.random.default_rng(1).bytes(100)
SDK: Final = REPOSITORY / "sdk"
IMAGES: Final = 8  # different sources in one worker, to see what an image takes
WAIT_SECONDS: Final = 300.0

# Answers [1, 0, state, nil] without reading its input. What is left is the work of the host, which hands the state in
# and takes it out.
KEEPER: Final = """(module (memory (export "memory") {pages})
  (data (i32.const 16) "\\94\\01\\00{head}")
  (func (export "rota_alloc") (param i32) (result i32) (i32.const {room}))
  (func (export "rota_step") (param i32 i32) (result i64)
    (i32.store8 (i32.const {end}) (i32.const 192))
    (i64.const {packed})))"""


def keeper(size: int) -> bytes:
    """Return a module that stores a state of `size` bytes at each call; 0: it stores none."""
    head = b"\xc6" + size.to_bytes(4, "big") if size else b"\xc0"
    start = 16 + 3 + len(head)
    room = (start + size + 65536) & ~15
    text = KEEPER.format(
        pages=(room + size + (1 << 17)) // 65536 + 1,
        head="".join(f"\\{byte:02x}" for byte in head),
        room=room,
        end=start + size,
        packed=16 << 32 | (3 + len(head) + size + 1),
    )
    return bytes(wasmtime.wat2wasm(text))


# Copies its standard input to its standard output.
CAT: Final = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\\10\\00\\00\\00\\00\\10\\00\\00")
  (func (export "_start") (loop $more
    (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (if (i32.load (i32.const 8)) (then
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.const 4096))
      (br $more))))))"""


class Tried:
    """An executor over a folder of contents, and how long its tasks take."""

    def __init__(self, folder: Path) -> None:
        self._modules = folder / "agents-modules"
        self._modules.mkdir()
        self._executor = WasmExecutor(
            self._modules, folder / "agents-artefacts", None, lambda: time.monotonic() * 1_000
        )

    def fold(self, module: Path | bytes, tasks: int, *, reuse: bool, state: bytes | None = None) -> Fold:
        """Return a fold of equal tasks with 100 bytes each, of code that is ready to run."""
        content = content_of(module, None, Extras())
        for part, read in content.parts.items():
            shape = KINDS[content.kind].content if part == content.digest else KINDS[AGENT].content
            (self._modules / content_file(part, shape)).write_bytes(read())
        code = Code(content.digest, content.kind, reuse, limits=Limits(timeout_ms=600_000))
        prepare = self._executor.preparation(code)
        if prepare is not None:
            prepare()
        self._executor.prepare(code, "bench")
        kind, growth = TELL, 2 * len(state or b"")
        inputs = [
            TaskInput(turn, kind, None, PAYLOAD, NOW_MS, None, (), 0, growth + 65_536) for turn in range(1, tasks + 1)
        ]
        return Fold(bytes(32), code, ADDRESS, state, tuple(inputs))

    def task_us(self, fold: Fold) -> float:
        """Return the time of a task in microseconds; every task must succeed."""
        started = time.perf_counter()
        result = self._executor.run(fold)
        seconds = time.perf_counter() - started
        failed = [outcome for outcome in result.outcomes if type(outcome) is not Done]
        assert len(result.outcomes) == len(fold.tasks), (result.stopped, result.reason)
        assert not failed, failed[0]
        return seconds / len(fold.tasks) * 1e6

    def close(self) -> None:
        self._executor.close()


def executor(place: Place) -> Iterator[None]:
    """What the worker adds to the calls of wasmtime for an agent, fresh and with `reuse`, by the size of its state."""
    with closing(Tried(place.folder.prepare().root)) as tried:
        trials = [_Trial(tried, size, reuse, place.sizes.tasks) for size in STATES for reuse in (True, False)]
        while True:
            for trial in trials:
                place.say(trial.name)
                bounds = {"wasmtime, C API": trial.bare.c_api_us(trial.calls, trial.reuse)}
                if trial.calls >= FOLD_TASKS:
                    bounds["wasmtime, Python package"] = trial.bare.package_us(trial.calls // 4, trial.reuse)
                place.table.add("agents", trial.name, "us/task", tried.task_us(trial.fold), bounds)
            yield


class _Trial:
    """An agent with a state of one size, and the same module and input for the bare loop."""

    def __init__(self, tried: Tried, size: int, reuse: bool, tasks: int) -> None:
        module = keeper(size)
        state = bytes(size) if size else None
        self.reuse = reuse
        self.calls = max(10, min(tasks // 10, STATES_BYTES_MAX // (size + 1)))
        self.fold = tried.fold(module, self.calls, reuse=reuse, state=state)
        data = abi.encode_input(self.fold.tasks[0], address=ADDRESS, state=state, entropy=bytes(32))
        self.bare = BareModule(module, data)
        self.name = f"agent {'reuse' if reuse else 'fresh'}, 100 bytes, state of {_size(size)}"


def _size(size: int) -> str:
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB" if size else "0"


class _Written(NamedTuple):
    """Code in one language. `may_reuse`: measured with `reuse` as well."""

    language: str
    module: Path | bytes
    may_reuse: bool


def _languages(has_runtimes: bool) -> list[_Written]:
    built = [
        _Written(name, SDK / name / "examples" / "counter.wasm", True)
        for name in ("c", "zig", "rust", "assemblyscript")
    ]
    sources = [
        _Written(name, SDK / name / "examples" / f"counter.{suffix}", False)
        for name, suffix in (("python", "py"), ("javascript", "js"))
    ]
    return [
        *built,
        *sources[: len(sources) * has_runtimes],
        _Written("command (WASI)", bytes(wasmtime.wat2wasm(CAT)), False),
    ]


def languages(place: Place) -> Iterator[None]:
    """What a task costs by language: the counter of each SDK, and a WASI program that copies its input."""
    with _own_runtimes(place) as has_runtimes, closing(Tried(place.folder.prepare().root)) as tried:
        folds: list[tuple[str, Fold]] = []
        chosen = _languages(has_runtimes)
        for one in chosen if place.sizes.tasks >= FOLD_TASKS * 10 else (chosen[0], chosen[-1]):
            place.say(f"compile {one.language}")
            tasks = max(10, place.sizes.tasks // (100 if one.may_reuse else 200))
            for reuse in (False, True)[: 1 + one.may_reuse]:
                name = f"counter in {one.language}, {'reuse' if reuse else 'fresh'}"
                folds.append((name, tried.fold(one.module, tasks, reuse=reuse)))
        while True:
            for name, fold in folds:
                place.say(name)
                place.table.add("agents", name, "us/task", tried.task_us(fold), {})
            yield


@contextmanager
def _own_runtimes(place: Place) -> Iterator[bool]:
    """Use a runtimes folder of our own, in which nothing is compiled yet; yield whether there are runtimes.

    A quick round takes what is fetched and compiled, and fetches and compiles nothing.
    """
    if place.sizes.tasks < FOLD_TASKS * 10:
        compiled = (runtimes_folder() / COMPILED).is_dir()
        yield compiled and all(is_fetched(runtime) for runtime in RUNTIMES.values())
        return
    for runtime in RUNTIMES.values():
        if not is_fetched(runtime):
            fetch_runtime(runtime, runtimes_folder(), place.say)
    files = [runtime_path(runtime) for runtime in RUNTIMES.values()]
    own = place.folder.root / "runtimes"
    own.mkdir(mode=0o700)
    for file in files:
        shutil.copy(file, own)
    os.environ[FOLDER_VARIABLE] = str(own)
    try:
        yield True
    finally:
        del os.environ[FOLDER_VARIABLE]


SOURCES: Final = {
    "planner.py": "def agent(ctx):\n    ctx.reply('{number} ' + ctx.message.text)\n",
    "planner.js": "export function agent(ctx) {{ ctx.reply('{number} ' + ctx.message.text) }}\n",
}


def deploys(place: Place) -> Iterator[None]:
    """From the start of a deploy of a source to its first result, through a broker: in a runtimes folder where nothing
    is compiled, and after a change of the source. And what the worker's own memory grows by with each image.
    """
    with _own_runtimes(place) as has_runtimes:
        while not has_runtimes:
            yield
        yield from _deploys(place)


def _deploys(place: Place) -> Iterator[None]:
    with (
        Up(place.folder.prepare(), 1, 0) as up,
        Client(place.folder.root, timeout_s=WAIT_SECONDS) as client,
    ):
        up.wait_ready(place.say)
        (worker,) = client.status()["workers"]
        for name, text in SOURCES.items():
            place.say(f"{name}, nothing compiled")
            _row(place, f"{name}: first deploy to first result", _first_result_ms(client, place, name, text, 0))
        for round_number in range(1, 1 << 30):
            for name, text in SOURCES.items():
                place.say(f"{name}, changed")
                taken = _first_result_ms(client, place, name, text, round_number * 100)
                _row(place, f"{name}: deploy of a change to first result", taken)
                before = _proportional_bytes(worker["pid"])
                images = min(IMAGES, place.sizes.tasks // FOLD_TASKS)
                for number in range(1, images + 1):
                    _first_result_ms(client, place, name, text, round_number * 100 + number)
                grown = (_proportional_bytes(worker["pid"]) - before) / images / (1 << 20)
                place.table.add("agents", f"{name}: memory of the worker for each image", "MiB", max(0.01, grown), {})
            held = _proportional_bytes(worker["pid"]) / (1 << 20)
            place.table.add("agents", "memory of the worker with all these images", "MiB", held, {})
            yield


def _first_result_ms(client: Client, place: Place, name: str, text: str, number: int) -> float:
    """Deploy a source that nobody has seen, send it a task, and return how long both took."""
    path = place.folder.root / name
    path.write_text(text.format(number=number), encoding="utf-8")
    agent = name.replace(".", "_")
    started = time.perf_counter()
    client.deploy(agent, path)
    result = client.submit(agent, b"x").result(WAIT_SECONDS)
    taken = time.perf_counter() - started
    assert result.payload == f"{number} x".encode(), result
    return taken * 1e3


def _row(place: Place, name: str, value: float) -> None:
    place.table.add("agents", name, "ms", value, {})


def _proportional_bytes(pid: int) -> int:
    """Return a process's memory, of shared pages its share; 0 where that cannot be asked."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


AGENTS: list[Callable[[Any], Iterator[None]]] = [executor, languages, deploys]
