"""Arguments, clocks, chance, streams, waiting and the end of a WASI process; and all functions with garbage."""

from __future__ import annotations

import struct
from random import Random

import pytest
from wasi_guest import DATA_AT, OUT_AT, PATH_AT, ROOT, FuelSpent, WasiKit

from rota.common.wasi_imports import WASI_IMPORTS
from rota.wasi import errno
from rota.wasi.functions import WASI_FUNCTIONS
from rota.wasi.process import FreezeReached, ProcessExit


def test_all_of_preview_1_is_there() -> None:
    """Goal: no function is missing. Method: the 46 names, each with a function."""
    assert len(WASI_IMPORTS) == 46
    assert WASI_FUNCTIONS.keys() == WASI_IMPORTS.keys()


def test_arguments_and_environment() -> None:
    """Goal: a program finds what the deploy said. Method: sizes, then texts and where each begins."""
    kit = WasiKit(args=("one", "zwei é"), env=[("HOME", "/"), ("EMPTY", "")])
    for sizes, get, texts in (
        ("args_sizes_get", "args_get", [b"program", b"one", "zwei é".encode()]),
        ("environ_sizes_get", "environ_get", [b"HOME=/", b"EMPTY="]),
    ):
        assert kit.call(sizes, OUT_AT, OUT_AT + 4) == 0
        assert (kit.word(), kit.word(OUT_AT + 4)) == (len(texts), sum(len(text) + 1 for text in texts))
        assert kit.call(get, OUT_AT, DATA_AT) == 0
        starts = [kit.word(OUT_AT + 4 * index) for index in range(len(texts))]
        memory = kit.guest.memory
        assert [bytes(memory[start : memory.index(0, start)]) for start in starts] == texts


def test_clocks_go_by_a_fixed_rule() -> None:
    """Goal: time follows from the calls alone. Method: read, wait, read; the wall clock of the host is far away."""
    kit = WasiKit(now_ms=5)
    times = []
    for clock in (0, 1, 2, 3):
        assert kit.call("clock_time_get", clock, 0, OUT_AT) == 0
        times.append(kit.long())
    assert times == [5_001_000, 5_002_000, 3_000, 4_000]
    assert kit.call("clock_time_get", 4, 0, OUT_AT) == errno.EINVAL
    assert kit.call("clock_res_get", 1, OUT_AT) == 0
    assert kit.long() == 1_000
    assert poll(kit, (7, 0, 1, 3_600 * 10**9, 0)) == [(7, 0, 0)]
    assert kit.call("clock_time_get", 0, 0, OUT_AT) == 0
    assert kit.long() == 5_000_000 + 3_600 * 10**9 + 5_000


def poll(kit: WasiKit, *wanted: tuple[int, int, int, int, int]) -> list[tuple[int, int, int]]:
    """Poll for (userdata, tag, subject, timeout, flags); return (userdata, errno, type) of each event."""
    for index, (userdata, tag, subject, timeout, flags) in enumerate(wanted):
        struct.pack_into(
            "<QB7xI4xQQH6x", kit.guest.memory, DATA_AT + 48 * index, userdata, tag, subject, timeout, 0, flags
        )
    assert kit.call("poll_oneoff", DATA_AT, DATA_AT + 0x2000, len(wanted), OUT_AT) == 0
    return [struct.unpack_from("<QHB", kit.guest.memory, DATA_AT + 0x2000 + 32 * index) for index in range(kit.word())]


def test_polling_never_waits_for_real() -> None:
    """Goal: descriptors are ready at once, the first of the clocks ends the wait. Method: mixed subscriptions."""
    kit = WasiKit(now_ms=1_000, stdin=b"abc")
    assert poll(kit, (1, 1, 0, 0, 0), (2, 0, 0, 5, 0), (3, 2, 1, 0, 0)) == [(1, 0, 1), (3, 0, 2)]
    assert poll(kit, (1, 0, 0, 50, 0), (2, 0, 1, 20, 0), (3, 0, 1, 20, 0)) == [(2, 0, 0), (3, 0, 0)]
    assert poll(kit, (1, 0, 0, 1, 1)) == [(1, 0, 0)]  # a moment that has passed
    assert poll(kit, (1, 1, 99, 0, 0)) == [(1, errno.EBADF, 1)]
    assert poll(kit, (1, 2, 0, 0, 0)) == [(1, errno.EBADF, 2)]
    assert poll(kit, (1, 0, 9, 0, 0)) == [(1, errno.EINVAL, 0)]
    assert kit.call("poll_oneoff", DATA_AT, DATA_AT, 0, OUT_AT) == errno.EINVAL
    poll(kit, (1, 0, 0, (1 << 64) - 1, 0))
    poll(kit, (1, 0, 0, (1 << 64) - 1, 0))
    assert kit.call("clock_time_get", 0, 0, OUT_AT) == 0  # the end of time is a time
    assert kit.long() == (1 << 63) - 1


def test_chance_follows_from_the_entropy() -> None:
    """Goal: the same entropy gives the same bytes in any portions, another one others. Method: compare streams."""

    def chance(entropy: bytes, *sizes: int) -> bytes:
        kit = WasiKit(entropy=entropy)
        data = b""
        for size in sizes:
            assert kit.call("random_get", DATA_AT, size) == 0
            data += bytes(kit.guest.memory[DATA_AT : DATA_AT + size])
        return data

    assert chance(bytes(32), 1000) == chance(bytes(32), 1, 0, 99, 900)
    assert chance(bytes(32), 1000) != chance(b"\1" * 32, 1000)
    assert chance(bytes(32), 32) != bytes(32)


def test_streams_and_their_names() -> None:
    """Goal: input, result and log go where they should, also by name and number. Method: write to each, renumber."""
    kit = WasiKit(stdin=b"hello world", stdout_bytes_max=8)
    assert (kit.read(0, 5), kit.read(0), kit.read(0)) == (b"hello", b" world", b"")
    assert kit.write(1, b"abc") == 3
    assert kit.write(2, b"to the log\n") == 11
    assert kit.call("path_open", ROOT, 0, *kit.path("dev/stdout"), 0, 1 << 6, 0, 0, OUT_AT) == 0
    assert kit.write(kit.word(), b"def") == 3
    assert kit.call("path_open", ROOT, 0, *kit.path("dev/null"), 0, (1 << 6) | 2, 0, 0, OUT_AT) == 0
    null = kit.word()
    assert (kit.write(null, b"gone"), kit.read(null)) == (4, b"")
    assert kit.call("fd_renumber", 2, 1) == 0
    assert kit.write(1, b"also") == 4  # number 1 is standard error now
    assert kit.process.stdout() == b"abcdef"
    assert kit.log == [(2, b"to the log\n"), (2, b"also")]
    kit.call("path_open", ROOT, 0, *kit.path("dev/stdout"), 0, 1 << 6, 0, 0, OUT_AT)
    assert kit.write(kit.word(), bytes(100)) == 100
    assert len(kit.process.stdout()) == 9  # one more than allowed, however much was written
    assert len(kit.read(kit.open("dev/urandom"), 100)) == 100
    assert kit.on_path("path_unlink_file", "dev/null") == errno.EROFS


def test_a_program_ends_itself_and_sockets_are_not_there() -> None:
    """Goal: exit codes come out whole; what is left out says so. Method: one call each."""
    kit = WasiKit()
    with pytest.raises(ProcessExit) as ended:
        kit.call("proc_exit", 0xFFFF_FFFF)
    assert ended.value.code == 0xFFFF_FFFF
    assert kit.call("proc_raise", 6) == errno.ENOSYS
    assert kit.call("sched_yield") == 0
    assert kit.call("sock_shutdown", 1, 0) == errno.ENOTSOCK
    assert kit.call("sock_accept", 77, 0, OUT_AT) == errno.EBADF


def test_a_guest_freezes_itself() -> None:
    """Goal: the note, then the next look at the clock. Method: with and without images being made."""
    kit = WasiKit(freezes=True)
    assert kit.call("clock_time_get", 0, 0, OUT_AT) == 0
    number = kit.open("rota/freeze", 1)
    assert kit.write(number, b"note") == 4
    assert kit.call("clock_time_get", 0, 0, OUT_AT) == 0  # the file is open: the note is not complete
    assert kit.call("fd_close", number) == 0
    with pytest.raises(FreezeReached) as reached:
        kit.call("clock_time_get", 1, 0, OUT_AT)
    assert reached.value.note == b"note"
    task = WasiKit({"rota/boot": b""})
    task.make("rota/freeze", b"note")
    assert task.call("clock_time_get", 1, 0, OUT_AT) == 0


EDGES = (0, 1, 2, 3, 4, 8, PATH_AT, DATA_AT, (1 << 20) - 1, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


@pytest.mark.parametrize("name", sorted(WASI_IMPORTS))
def test_garbage_gets_an_errno(name: str) -> None:
    """Goal: no argument makes a function fail otherwise, and it gives the same each time.

    Method: seeded edge values, in a process that has files, folders and links; twice.
    """

    def outcomes() -> list[int | str]:
        random = Random(name)
        kit = WasiKit({"a.txt": b"shared", "lib/b.txt": b"x"}, memory_bytes=4 << 20)
        kit.make("own.txt", b"own")
        kit.guest.memory[DATA_AT : DATA_AT + 4096] = random.randbytes(4096)
        kit.path("own.txt/../lib")
        found: list[int | str] = []
        for _ in range(300):
            values = [
                random.choice(EDGES) if kind == "i32" else random.choice((*EDGES, 1 << 63, (1 << 64) - 1))
                for kind in WASI_IMPORTS[name].params
            ]
            kit.guest.fuel = 1 << 24
            try:
                found.append(kit.call(name, *values))
            except (ProcessExit, FuelSpent) as ended:
                found.append(type(ended).__name__)
        return found

    first = outcomes()
    assert all(isinstance(found, str) or 0 <= found <= errno.ENOTCAPABLE for found in first)
    assert first == outcomes()


def test_a_call_is_one_process() -> None:
    """Goal: the next message of a call finds its files and descriptors, a clock that goes on and chance of its own.

    Method: a file that is written before and after; messages later, earlier and at the time that the clock has reached.
    """
    kit = WasiKit(now_ms=1_000)
    number = kit.open("tmp/kept", 1 | 8)
    assert kit.write(number, b"one") == 3

    def seen() -> tuple[int, bytes]:
        assert kit.call("clock_time_get", 0, 0, OUT_AT) == 0
        now = kit.long()
        assert kit.call("random_get", DATA_AT, 8) == 0
        return now, bytes(kit.guest.memory[DATA_AT : DATA_AT + 8])

    lines: list[tuple[int, bytes]] = []
    found = [seen()]
    for now_ms, entropy in ((3_000, 1), (2_000, 2), (3_000, 1)):
        kit.process.go_on(now_ms=now_ms, entropy=bytes([entropy]) * 32, log=lambda *line: lines.append(line))
        found.append(seen())
    assert [now for now, _ in found] == [1_000_001_000, 3_000_001_000, 3_000_002_000, 3_000_003_000]
    assert len({chance for _, chance in found}) == 3
    assert found[1][1] == found[3][1]
    assert kit.write(number, b"two") == 3
    assert kit.write(2, b"a line") == 6
    assert (kit.log, lines) == ([], [(2, b"a line")])
    assert kit.process.files.used_bytes > 6
    again = kit.open("tmp/kept")
    struct.pack_into("<II", kit.guest.memory, DATA_AT, DATA_AT + 64, 100)
    assert kit.call("fd_read", again, DATA_AT, 1, OUT_AT) == 0
    assert bytes(kit.guest.memory[DATA_AT + 64 : DATA_AT + 64 + kit.word()]) == b"onetwo"
