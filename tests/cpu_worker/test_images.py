"""Sources: images are made once and right, tasks leave nothing behind, and what a source does wrong is said."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from wasmtime import Module

from rota.common.bundle import encode_bundle
from rota.common.digests import digest
from rota.common.errors import CodeError
from rota.common.work import SOURCE, Code, FoldResult, Limits
from rota.cpu_worker import executor as executor_module
from rota.cpu_worker import image_making, one_shot
from rota.cpu_worker.artefacts import MAC_BYTES, Artefacts
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.guest import GuestFault
from rota.cpu_worker.guest_memory import WatchedMemories
from rota.cpu_worker.host_calls import HostCalls, TaskFacts
from rota.cpu_worker.image import BASE_SUFFIX, IMAGE_SUFFIX, PROGRAM_SUFFIX, CompiledProgram, Image, file_of, read_image
from rota.cpu_worker.image_guest import ImageGuest, SourceFacts, link_memory, link_program
from rota.cpu_worker.image_making import BaseImage, Order, make_image
from rota.cpu_worker.module_split import split_module
from rota.cpu_worker.profile import new_engine
from rota.cpu_worker.task_log import TaskLog
from rota.runtimes.own_driver import DRIVER
from tests.kits.tiny_runtime import LOAD, STEP, tiny_bundle, tiny_contents, tiny_runtime

PAGE = 65536


@pytest.fixture(scope="session")
def runtimes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtimes")


@pytest.fixture
def new_executor(world: Any, runtimes_dir: Path) -> Callable[..., WasmExecutor]:
    """Makes an executor that shares compiled runtimes, and images too, with those of other tests."""
    return lambda **settings: world.executor(**{"runtimes_dir": runtimes_dir, **settings})


@pytest.fixture
def deploy(world: Any) -> Callable[..., Code]:
    """Puts a source and its runtime into the folder; returns the code."""

    def put(source: str, **limits: int) -> Code:
        runtime, bundle = tiny_contents(source)
        (world.modules_dir / f"{digest(runtime).hex()}.wasm").write_bytes(runtime)
        (world.modules_dir / f"{digest(bundle).hex()}.bundle").write_bytes(bundle)
        return Code(digest(bundle), SOURCE, limits=Limits(**limits))

    return put


def files(folder: Path, suffix: str) -> dict[str, bytes]:
    """Return the contents of artefacts, without their MAC."""
    return {path.name: path.read_bytes()[MAC_BYTES:] for path in sorted(folder.glob("*" + suffix))}


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_tasks_begin_where_the_source_was_loaded(deploy: Any, new_executor: Any, run: Any) -> None:
    """Goal: each task sees what loading left, and nothing of other tasks.

    Method: a runtime that counts its answers in memory and in a global, three times in a fold and in another one.
    """
    executor, code = new_executor(), deploy("khello")
    executor.prepare(code, "counter")
    first, second = run(executor, code, b"x", b"x", b"x"), run(executor, code, b"x")
    results = [outcome.result for outcome in (*first.outcomes, *second.outcomes)]
    assert len(set(results)) == 1
    # Answers in memory and in the global (one while loading), `_initialize` once, the table, a far byte, pages, `text`.
    assert results[0][:15] == b"hello" + bytes([1, 2, 1, 140, 0, 2]) + b"not "
    assert len({outcome.fuel for outcome in first.outcomes}) == 1


def test_chance_and_time_are_of_the_task(deploy: Any, new_executor: Any, run: Any, task: Any) -> None:
    """Goal: what was drawn while loading is not frozen into tasks. Method: tasks of two turns and times, twice."""
    tasks = [task(turn=1, now_ms=1_000), task(turn=2, now_ms=2_000)]
    executor, code = new_executor(), deploy("khello")
    first, second = [run(executor, code, *tasks).outcomes for _ in range(2)]
    assert first == second
    (one, two) = [outcome.result[15:23] for outcome in first]
    assert one != two
    assert [int.from_bytes(outcome.result[23:31], "little") // 1_000_000_000 for outcome in first] == [1, 2]


def test_memory_that_a_task_writes_is_gone(deploy: Any, new_executor: Any, run: Any) -> None:
    """Goal: neither written nor grown memory reaches the next task. Method: one that fills, one that grows, twice."""
    executor = new_executor()
    for source, place, value in (("k" + STEP["fill"], 10, 9), ("k" + STEP["pages"], 11, 3)):
        first, second = run(executor, deploy(source), b"", b"").outcomes
        assert first == second
        assert first.result[place - 4 + 0] is not None
        assert first.result[1 + place - 6] == value
    clean = run(executor, deploy("khello"), b"").outcomes[0]
    assert clean.result[9] == 0


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("trap", "trap", "unreachable in own"),
        ("loop", "fuel", "out of fuel in own"),
        ("grow", "trap", "unreachable in own"),
        ("outside", "bad_output", "own: 4294967295 + 4294967295 is outside the memory of 131072 bytes"),
    ],
)
def test_a_task_that_fails(deploy: Any, new_executor: Any, run: Any, what: str, kind: str, message: str) -> None:
    """Goal: what a source does wrong is its task's own failure. Method: each kind, and a second task as the first."""
    executor, code = new_executor(), deploy("k" + STEP[what], fuel=1_000_000)
    first, second = run(executor, code, b"", b"").outcomes
    assert (first.kind, first.message) == (kind, message)
    assert first == second


def test_fuel_is_exact(deploy: Any, new_executor: Any, run: Any) -> None:
    """Goal: a task may use exactly its fuel, and restoring an image costs none. Method: the limit and one less."""
    executor = new_executor()
    used = run(executor, deploy("khello"), b"").outcomes[0].fuel
    assert 0 < used < 10_000
    enough, short = [run(executor, deploy("khello", fuel=fuel), b"").outcomes[0] for fuel in (used, used - 1)]
    assert (enough.fuel, short.kind, short.fuel) == (used, "fuel", used - 1)


def test_recursion_is_a_fault_of_the_host(deploy: Any, new_executor: Any, run: Any) -> None:
    """Goal: a stack that ends is no result, and kills nothing. Method: endless recursion in a task; then another."""
    executor = new_executor()
    stopped: FoldResult = run(executor, deploy("k" + STEP["recursion"]), b"")
    assert stopped.stopped == "faulted"
    assert "stack overflow in own" in stopped.reason
    assert run(executor, deploy("khello"), b"").outcomes[0].fuel


def test_the_memory_of_the_task_counts(deploy: Any, new_executor: Any) -> None:
    """Goal: an image that no task could hold is refused at deploy. Method: 10 MiB of data, and room for 8 and 16."""
    executor = new_executor()
    with pytest.raises(CodeError, match="starts with 10616832 bytes of memory, over memory_bytes = 8388608"):
        executor.prepare(deploy("b", memory_bytes=8 << 20), "large")
    assert executor.prepare(deploy("b", memory_bytes=16 << 20), "large")["memory_bytes_min"] == 10_616_832


# --- the same everywhere ----------------------------------------------------------------------------------------------


def test_images_are_the_same_in_every_process(deploy: Any, world: Any, run: Any, tmp_path: Path) -> None:
    """Goal: image, fuel and results follow from the source. Method: two users with two runs; compare all bytes."""
    results, kept = [], []
    for user in ("one", "two"):
        executor = world.executor(artefacts_dir=tmp_path / user, runtimes_dir=tmp_path / f"runtimes-{user}")
        results.append(run(executor, deploy("bhello"), b"").outcomes)
        shared = tmp_path / f"runtimes-{user}" / "compiled"
        kept.append(
            [
                list(files(folder, suffix).values())
                for folder, suffix in ((shared, PROGRAM_SUFFIX), (shared, BASE_SUFFIX), (tmp_path / user, IMAGE_SUFFIX))
            ]
        )
        assert [len(contents) for contents in kept[-1]] == [1, 1, 1]
    assert results[0] == results[1]
    assert kept[0] == kept[1]


def test_copied_images_give_the_same(
    deploy: Any, new_executor: Any, run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Goal: where memory comes from cannot be seen. Method: mapped and copied images, with tasks of all sorts."""
    sources = ["khello", "bhello", "k" + STEP["fill"], "k" + STEP["grow"], "k" + STEP["pages"]]
    mapped = [run(new_executor(), deploy(source), b"a", b"b").outcomes for source in sources]
    monkeypatch.setattr(executor_module, "guest_memories", WatchedMemories)
    executor = new_executor(artefacts_dir=tmp_path / "copied")
    assert [run(executor, deploy(source), b"a", b"b").outcomes for source in sources] == mapped


# --- artefacts --------------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_made_again(deploy: Any, world: Any, run: Any, tmp_path: Path) -> None:
    """Goal: a runtime is compiled once per user, a source loaded once per run. Method: count processes."""
    settings = {"artefacts_dir": tmp_path / "run", "runtimes_dir": tmp_path / "user"}
    code, other = deploy("khello"), deploy("kother")
    first = world.executor(**settings)
    preparation = first.preparation(code)
    assert preparation is not None
    preparation()
    assert first.preparation(code) is None
    run(first, code, b"")
    assert first._images.made_count == 3  # compiled, base image, image
    second = world.executor(**settings)
    assert second.preparation(code) is None
    run(second, code, b"")
    assert second._images.made_count == 0
    run(second, other, b"")
    assert second._images.made_count == 1


def test_processes_of_a_user_compile_a_runtime_once(deploy: Any, world: Any, tmp_path: Path) -> None:
    """Goal: workers that need a runtime at the same time wait for the first. Method: three behind a barrier."""
    code = deploy("khello")
    executors = [world.executor(artefacts_dir=tmp_path / f"run{n}", runtimes_dir=tmp_path / "user") for n in range(3)]
    preparations = [executor.preparation(code) for executor in executors]
    threads = [threading.Thread(target=preparation) for preparation in preparations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(executor._images.made_count for executor in executors) == [1, 1, 3]


@pytest.mark.parametrize("suffix", [PROGRAM_SUFFIX, BASE_SUFFIX, IMAGE_SUFFIX])
def test_a_changed_artefact_is_made_again(deploy: Any, world: Any, run: Any, tmp_path: Path, suffix: str) -> None:
    """Goal: nothing that others wrote is run. Method: one bit changed, and the right bytes without the MAC."""
    settings = {"artefacts_dir": tmp_path / "run", "runtimes_dir": tmp_path / "user"}
    code = deploy("khello")
    good = run(world.executor(**settings), code, b"").outcomes
    (path,) = [*(tmp_path / "run").glob("*" + suffix), *(tmp_path / "user").rglob("*" + suffix)]
    data = path.read_bytes()
    for forged in (data[:-1] + bytes([data[-1] ^ 1]), bytes(MAC_BYTES) + data[MAC_BYTES:]):
        path.write_bytes(forged)
        if suffix == BASE_SUFFIX:  # read only when an image is missing
            for image in (tmp_path / "run").glob("*" + IMAGE_SUFFIX):
                image.unlink()
        executor = world.executor(**settings)
        assert run(executor, code, b"").outcomes == good
        assert executor._images.made_count == (2 if suffix == BASE_SUFFIX else 1)
        assert path.read_bytes() == data


def test_a_folder_of_the_user_that_cannot_be_used(deploy: Any, world: Any, run: Any, tmp_path: Path) -> None:
    """Goal: a run needs no folder of the user. Method: a file in its place."""
    (tmp_path / "user").write_bytes(b"")
    executor = world.executor(artefacts_dir=tmp_path / "run", runtimes_dir=tmp_path / "user")
    assert run(executor, deploy("khello"), b"").outcomes[0].result[:5] == b"hello"


def test_the_longest_unused_images_go(tmp_path: Path) -> None:
    """Goal: a folder of images is bounded in bytes. Method: three, of which the oldest was used last."""
    artefacts = Artefacts(tmp_path)
    names = [artefacts.name(IMAGE_SUFFIX, bytes([number])) for number in range(3)]
    for age, name in enumerate(names):
        artefacts.keep(name, bytes(1_000))
        os.utime(tmp_path / name, (age, age))
    artefacts.touch(names[0])
    artefacts.keep(artefacts.name(PROGRAM_SUFFIX, b""), bytes(5_000))
    artefacts.trim(IMAGE_SUFFIX, 2_500)
    assert sorted(files(tmp_path, IMAGE_SUFFIX)) == sorted([names[0], names[2]])
    assert len(files(tmp_path, PROGRAM_SUFFIX)) == 1


def test_a_worker_that_ends_stops_making(deploy: Any, world: Any, tmp_path: Path) -> None:
    """Goal: a worker can end while a source loads. Method: stop it while one loops."""
    executor = world.executor(artefacts_dir=tmp_path / "run", runtimes_dir=tmp_path / "user")
    preparation = executor.preparation(deploy(LOAD["loop"]))
    assert preparation is not None
    said: list[str] = []

    def prepare() -> None:
        with pytest.raises(CodeError) as caught:
            preparation()
        said.append(caught.value.message)

    thread = threading.Thread(target=prepare)
    thread.start()
    while executor._images.made_count < 2 or not executor._images._shots.processes:
        assert thread.is_alive()
    executor.stop_preparing()
    thread.join()
    assert said == ["the worker is ending and makes nothing more"]


# --- sources that do not load -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base() -> tuple[CompiledProgram, Image]:
    """The runtime and its base image, made in this process."""
    engine = new_engine()
    split = split_module(tiny_runtime(), DRIVER.exports)
    native = Module(engine, split.wasm).serialize()
    compiled = CompiledProgram(file_of(native, split.program), split.program)
    order = Order("own", compiled.native.path, split.program, split.memory, None, "", (), (), (), copies_images=False)
    return compiled, read_image(file_of(*make_image(order, DRIVER)))


def order_of(compiled: CompiledProgram, base: Image, text: str) -> Order:
    given = tuple([(file.path, file.data) for file in tiny_bundle(text).files])
    begun = BaseImage(base.native.path, base.facts)
    native, program = compiled
    return Order("own", native.path, program, b"", begun, "agent.tiny", (), (), given, copies_images=False)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("loop", "agent.tiny does not load: it used up the 1000000 units of fuel that loading may take"),
        ("print", "agent.tiny does not load: it used up the 1000000 units of fuel that loading may take"),
        ("grow", "agent.tiny does not load: trap: unreachable in own"),
        ("trap", "agent.tiny does not load: trap: unreachable in own"),
        ("exit", "agent.tiny does not load: it ended with exit code 3"),
        ("error", "agent.tiny does not load: the reason"),
        ("table", "agent.tiny changes a table of the runtime"),
        ("recursion", "agent.tiny does not load: stack overflow in own"),
        ("large", "agent.tiny leaves 10616832 bytes in memory, at most 4194304: load less"),
    ],
)
def test_a_source_that_does_not_load(
    base: tuple[CompiledProgram, Image], monkeypatch: pytest.MonkeyPatch, what: str, said: str
) -> None:
    """Goal: whatever a source does while it loads ends, and the deploy says why. Method: each kind of misdeed."""
    monkeypatch.setattr(image_making, "IMAGE_FUEL", 1_000_000_000 if what in ("recursion", "large") else 1_000_000)
    monkeypatch.setattr(image_making, "IMAGE_BYTES_MAX", 4 << 20)
    with pytest.raises(CodeError) as caught:
        make_image(order_of(*base, LOAD[what] + "the reason"), DRIVER)
    assert caught.value.message.startswith(said)


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for the interpreter")
def test_a_process_that_dies_shows_no_path(
    deploy: Any, new_executor: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Goal: whoever deploys sees nothing of this host. Method: an interpreter that ends with its own words."""
    executor = new_executor()
    executor.prepare(deploy("kfirst"), "a")  # the runtime is compiled, and its base image made
    dying = tmp_path / "python"
    dying.write_text('#!/bin/sh\necho "MemoryError in $0" >&2\nexit 1\n')
    dying.chmod(0o700)
    monkeypatch.setattr(one_shot.sys, "executable", str(dying))
    with pytest.raises(CodeError, match="ended with 1: probably over its memory") as refused:
        executor.prepare(deploy("ksecond"), "a")
    assert "/" not in refused.value.message


def test_a_reason_comes_out_of_the_process(deploy: Any, new_executor: Any) -> None:
    """Goal: the reason reaches the deploy from the throw-away process. Method: an error, a trap."""
    executor = new_executor()
    with pytest.raises(CodeError, match=r"^agent\.tiny does not load: who reads this\?$"):
        executor.prepare(deploy(LOAD["error"] + "who reads this?"), "a")
    with pytest.raises(CodeError, match=r"agent\.tiny does not load: trap: unreachable"):
        executor.prepare(deploy(LOAD["trap"]), "a")


def test_a_source_without_its_runtime(world: Any, new_executor: Any) -> None:
    """Goal: a missing runtime is named. Method: the bundle alone, then one whose runtime is no module."""
    executor = new_executor()
    bundle = tiny_bundle("knowhere")._replace(module=digest(b"other"))
    data = encode_bundle(bundle)
    (world.modules_dir / f"{digest(data).hex()}.bundle").write_bytes(data)
    code = Code(digest(data), SOURCE)
    with pytest.raises(CodeError, match=f"module file {digest(b'other').hex()}.wasm is not in"):
        executor.prepare(code, "a")
    (world.modules_dir / f"{digest(b'other').hex()}.wasm").write_bytes(b"other")
    with pytest.raises(CodeError, match="no WebAssembly module"):
        executor.prepare(code, "a")


class MisreadingDriver(type(DRIVER)):  # type: ignore[misc]
    """A driver that trusts what a guest returns."""

    def step(self, guest: Any, note: bytes, message: bytes) -> bytes:
        return {b"text": b""}[super().step(guest, note, message)]


def test_a_driver_that_cannot_read_an_answer(base: tuple[CompiledProgram, Image]) -> None:
    """Goal: whatever a guest makes its driver do is the task's outcome. Method: a driver that raises `KeyError`."""
    engine, driver = new_engine(), MisreadingDriver()
    hosts = HostCalls(engine, None)
    native, facts = make_image(order_of(*base, "khello"), DRIVER)
    runtime = link_program(engine, base[0].native.path, base[0].facts, driver, hosts)
    prepared = link_memory(runtime, Module.deserialize(engine, native), facts, SourceFacts((), {}, {}))
    hosts.begin(TaskFacts(0, b"", 0, TaskLog(100), Limits(), program=prepared.program))
    guest = ImageGuest(engine, prepared, hosts, memory_bytes=1 << 20)
    with pytest.raises(GuestFault) as caught:
        guest.call(b"", fuel=10_000)
    assert caught.value.kind == "bad_output"
    assert caught.value.message.startswith("own: what it returned cannot be read (KeyError: b'")
    guest.close()
