"""What a guest finds through WASI: nothing of the host, whatever paths it tries, and no more than its memory."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from sandbox_kit import World
from wasi_caller import OUT_AT, OUT_BYTES, answers, caller_of_all, data_at, payload_of, written

from rota.common.work import Done, Failed

ROOT = 3  # the descriptor of /
CREATE, DIRECTORY = 1, 2
ALL_RIGHTS = (1 << 29) - 1
EBADF, EFBIG, ENOSPC = 8, 22, 51

Call = tuple[str, tuple[int, ...]]


class Caller:
    """Calls to WASI with texts in guest memory."""

    def __init__(self, count: int) -> None:
        """For up to `count` calls."""
        self._count = count
        self._calls: list[Call] = []
        self._data = b""

    def text(self, data: bytes) -> tuple[int, int]:
        """Return address and length of a text."""
        at = data_at(self._count) + len(self._data)
        self._data += data
        return at, len(data)

    def call(self, name: str, *values: int) -> None:
        self._calls.append((name, values))

    def open(self, path: bytes, how: int = 0) -> None:
        self.call("path_open", ROOT, 1, *self.text(path), how, ALL_RIGHTS, ALL_RIGHTS, 0, OUT_AT)

    def payload(self) -> bytes:
        assert len(self._calls) <= self._count
        self._calls += [("sched_yield", ())] * (self._count - len(self._calls))
        return payload_of(self._calls, self._data)


@pytest.fixture
def run_calls(world: World, run: Any, task: Any) -> Any:
    """Runs the calls in one task, on both call paths; returns the outcome."""
    executors = [world.executor(raw_calls=raw) for raw in (True, False)]

    def run_them(caller: Caller, *, turn: int = 1, **limits: int) -> Done | Failed:
        code = world.function(caller_of_all(), **limits)
        first, second = [run(executor, code, task(caller.payload(), turn=turn)) for executor in executors]
        assert first == second
        assert first.stopped is None, first.reason
        return first.outcomes[0]

    return run_them


PATHS = (
    b"../../../../../../etc/passwd", b"/etc/passwd", b"//etc/passwd", b"/proc/self/environ", b"/dev/null", b"..", b"",
    b"a/../../etc/passwd", b"a/../../../etc/passwd", b"a/./../..//etc/passwd", b"link/passwd", b"up", b"up/etc/passwd",
    b"loop", b"loop/x", b"a\0b", b"caf\xe9", b"\xed\xa0\x80", b"x" * 5_000, b"a/" * 2_000, b"C:\\Windows",
    b"\\etc\\passwd", b"a/...", b"rota", b"tmp",
)  # fmt: skip


def test_paths_lead_nowhere(run_calls: Any) -> None:
    """Goal: no path reaches a file of the host. Method: ways up, absolute ways, links to outside and in a circle, texts
    that are no paths; each gets an error number, and the folder holds only what the guest has made.
    """
    caller = Caller(40)
    caller.call("path_create_directory", ROOT, *caller.text(b"a"))
    for target, name in ((b"/etc", b"link"), (b"..", b"up"), (b"loop", b"loop")):
        caller.call("path_symlink", *caller.text(target), ROOT, *caller.text(name))
    made = 4
    for path in PATHS:
        caller.open(path)
    caller.call("fd_readdir", ROOT, OUT_AT + 1_024, 4_096, 0, OUT_AT)
    outcome = run_calls(caller)
    found = answers(outcome.result, made + len(PATHS) + 1)
    assert found[:made] in ([0, 0, 0, 0], [0, 76, 0, 0])  # a link to an absolute path may be refused at once
    assert all(found[made:-1]), dict(zip(PATHS, found[made:-1], strict=True))
    assert found[-1] == 0
    listed = written(outcome.result, OUT_AT + 1_024, int.from_bytes(written(outcome.result, OUT_AT, 4), "little"))
    for word in (b"passwd", b"etc\0", b"usr", b"home", b"proc"):
        assert word not in listed


def test_nothing_of_the_host_is_there(run_calls: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: environment, arguments, folders, clock and chance are the task's. Method: ask for each, twice, and with
    another environment and turn.
    """
    caller = Caller(9)
    caller.call("environ_sizes_get", OUT_AT, OUT_AT + 4)
    caller.call("args_sizes_get", OUT_AT + 8, OUT_AT + 12)
    caller.call("fd_prestat_get", ROOT, OUT_AT + 16)
    caller.call("fd_prestat_dir_name", ROOT, OUT_AT + 24, 1)
    caller.call("fd_prestat_get", ROOT + 1, OUT_AT + 32)
    caller.call("clock_time_get", 0, 1, OUT_AT + 40)
    caller.call("clock_time_get", 1, 1, OUT_AT + 48)
    caller.call("random_get", OUT_AT + 64, 32)
    caller.call("clock_time_get", 2, 1, OUT_AT + 56)
    outcome = run_calls(caller)
    found, out = answers(outcome.result, 9), written(outcome.result, OUT_AT, 96)
    assert found[:4] == [0, 0, 0, 0]
    assert found[4] == EBADF
    assert struct.unpack_from("<4I", out) == (0, 0, 1, len(b"program") + 1)
    assert out[24:25] == b"/"
    wall = struct.unpack_from("<Q", out, 40)[0]
    assert 0 <= wall - 1_700_000_000_000 * 1_000_000 < 1_000_000_000
    monkeypatch.setenv("SECRET", "of the host")
    again = run_calls(caller)
    assert (again.result, again.fuel) == (outcome.result, outcome.fuel)
    later = written(run_calls(caller, turn=2).result, OUT_AT, 96)
    assert later[64:] != out[64:]
    assert later[:24] == out[:24]


def test_files_are_bounded_by_the_memory(run_calls: Any) -> None:
    """Goal: what a guest keeps in files is bounded like its memory. Method: sizes of exabytes; then as many writes as
    it takes.
    """
    caller = Caller(400)
    caller.open(b"big", CREATE)
    for size in ((1 << 62), (1 << 64) - 1, 1 << 40):
        caller.call("fd_filestat_set_size", 4, size)
        caller.call("fd_allocate", 4, 0, size)
    at, _ = caller.text(struct.pack("<2I", OUT_AT, OUT_BYTES))
    for _ in range(300):
        caller.call("fd_write", 4, at, 1, OUT_AT)
    outcome = run_calls(caller, memory_bytes=4 << 20, fuel=1 << 40)
    found = answers(outcome.result, 307)
    assert found[0] == 0
    assert all(found[1:7])
    written_times = found[7:].count(0)
    assert 10 < written_times < (4 << 20) // OUT_BYTES + 1
    assert set(found[7 + written_times :]) <= {ENOSPC, EFBIG}


def test_descriptors_are_bounded(run_calls: Any) -> None:
    """Goal: open files are bounded. Method: many more than any program has open."""
    caller = Caller(3_000)
    at, size = caller.text(b"f")
    for _ in range(3_000):
        caller.call("path_open", ROOT, 1, at, size, CREATE, ALL_RIGHTS, ALL_RIGHTS, 0, OUT_AT)
    found = answers(run_calls(caller, fuel=1 << 40).result, 3_000)
    assert 0 < found.count(0) < 3_000


def test_fuel_bounds_the_work_of_the_host(run_calls: Any) -> None:
    """Goal: no call does much for little fuel. Method: the most that each call of a kind may ask for, and no fuel."""
    for name, values in (
        ("random_get", (0, 0x7FFF0000)),
        ("fd_write", (1, data_at(1), 200_000, OUT_AT)),
        ("fd_read", (0, data_at(1), 200_000, OUT_AT)),
        ("poll_oneoff", (0, OUT_AT, 200_000, OUT_AT)),
        ("fd_readdir", (ROOT, 0, 0x7FFFFFFF, 0, OUT_AT)),
    ):
        caller = Caller(1)
        caller.call(name, *values)
        outcome = run_calls(caller, fuel=20_000, memory_bytes=1 << 30)
        assert isinstance(outcome, Failed) or answers(outcome.result, 1)[0] != 0, name
        assert outcome.fuel <= 20_000


def test_the_kit_calls_what_it_names(run_calls: Any, tmp_path: Path) -> None:
    """Goal: the guest of these tests reaches its functions. Method: write into a file, read it back."""
    caller = Caller(4)
    caller.open(b"f", CREATE)
    at, size = caller.text(b"hello")
    vector, _ = caller.text(struct.pack("<2I", at, size))
    into, _ = caller.text(struct.pack("<2I", OUT_AT + 64, 16))
    caller.call("fd_write", 4, vector, 1, OUT_AT)
    caller.call("fd_seek", 4, 0, 0, OUT_AT)
    caller.call("fd_read", 4, into, 1, OUT_AT + 8)
    outcome = run_calls(caller)
    assert answers(outcome.result, 4) == [0, 0, 0, 0]
    assert written(outcome.result, OUT_AT + 64, 5) == b"hello"
