"""Tensors as files: what a program reads and makes under /rota/tensors, over a memory that is a bytearray."""

from __future__ import annotations

import struct

import msgpack
import pytest

from rota.common.work import TensorRef
from rota.cpu_worker.tensor_access import TaskTensors
from rota.tensors.format import tensor_digest
from rota.wasi.errno import EINVAL, EIO, ENOSPC, EROFS, SUCCESS
from rota.wasi.functions import WASI_FUNCTIONS, call_function
from rota.wasi.process import Process
from rota.wasi.program import program_of

ROOT = 3
READ, WRITE = 1 << 1, 1 << 6
CREATE, TRUNCATE = 1, 8
SHARED = TensorRef(bytes(32), "uint8", (4,))


class HeldTensors:
    """A `TensorAccess` with one tensor."""

    def open(self, ref: TensorRef) -> memoryview:
        assert ref == SHARED
        return memoryview(b"data")


class PlainGuest:
    """A guest's memory, and what it was charged."""

    def __init__(self, process: Process) -> None:
        self.memory = bytearray(1 << 16)
        self.charged = 0
        self._process = process

    def read(self, pointer: int, size: int) -> bytes | None:
        return bytes(self.memory[pointer : pointer + size]) if pointer + size <= len(self.memory) else None

    def write(self, pointer: int, data: bytes | memoryview) -> bool:
        self.memory[pointer : pointer + len(data)] = data
        return True

    def memory_bytes(self) -> int:
        return len(self.memory)

    def charge(self, fuel: int) -> None:
        self.charged += fuel

    def do(self, name: str, *values: int) -> int:
        found = call_function(WASI_FUNCTIONS[name], self._process, self, values)
        assert found is not None
        return found

    def open(self, path: str, rights: int, how: int = 0) -> tuple[int, int]:
        """Return errno and descriptor."""
        self.write(0, path.encode())
        errno = self.do("path_open", ROOT, 0, 0, len(path), how, rights, 0, 0, 512)
        return errno, int.from_bytes(self.memory[512:516], "little")

    def read_file(self, path: str) -> bytes:
        errno, number = self.open(path, READ)
        assert errno == SUCCESS
        self.write(1024, struct.pack("<II", 2048, 4096))
        assert self.do("fd_read", number, 1024, 1, 516) == SUCCESS
        assert self.do("fd_close", number) == SUCCESS
        return bytes(self.memory[2048 : 2048 + int.from_bytes(self.memory[516:520], "little")])

    def write_new(self, content: bytes) -> int:
        """Return the errno of closing the file."""
        errno, number = self.open("rota/tensors/new", WRITE, CREATE | TRUNCATE)
        assert errno == SUCCESS
        self.write(2048, content)
        self.write(1024, struct.pack("<II", 2048, len(content)))
        assert self.do("fd_write", number, 1024, 1, 516) == SUCCESS
        return self.do("fd_close", number)


@pytest.fixture
def tensors() -> TaskTensors:
    made = TaskTensors(HeldTensors())  # type: ignore[arg-type]
    made.given, made.bytes_max = (SHARED,), 100
    return made


@pytest.fixture
def guest(tensors: TaskTensors) -> PlainGuest:
    program = program_of((), (), (("rota/x", b""),))
    return PlainGuest(
        Process(
            program, now_ms=0, entropy=bytes(32), memory_bytes=1 << 20, log=lambda number, data: None, tensors=tensors
        )
    )


def test_a_tensor_is_a_file_that_cannot_be_changed(guest: PlainGuest) -> None:
    """Goal: reading works as with any file, and nothing changes a tensor. Method: read, open to write, remove."""
    assert guest.read_file("rota/tensors/0") == b"data"
    assert guest.open("rota/tensors/0", READ | WRITE)[0] == EROFS
    assert guest.open("rota/tensors/0", READ, TRUNCATE)[0] == EROFS
    assert guest.open("rota/tensors/00", READ)[0] != SUCCESS
    assert guest.open("rota/tensors/1", READ)[0] != SUCCESS
    guest.write(0, b"rota/tensors/0")
    assert guest.do("path_unlink_file", ROOT, 0, 14) == EROFS


def test_a_new_file_becomes_a_tensor(guest: PlainGuest, tensors: TaskTensors) -> None:
    """Goal: the next index, and the bytes. Method: two, read back, and what the task has made."""
    for dtype, shape, data in (("float32", [2], b"12345678"), ("uint8", [3], b"abc")):
        assert guest.write_new(msgpack.packb([dtype, shape]) + data) == SUCCESS
    assert guest.read_file("rota/tensors/1") == b"12345678"
    assert guest.read_file("rota/tensors/2") == b"abc"
    first, second = tensors.made()
    assert first[0] == TensorRef(tensor_digest("float32", (2,), b"12345678"), "float32", (2,))
    assert (second[0].dtype, second[0].shape, second[1]) == ("uint8", (3,), b"abc")


@pytest.mark.parametrize(
    ("content", "errno"),
    [
        (b"", EINVAL),
        (b"\xc1", EINVAL),
        (msgpack.packb(["uint8", [3]]) + b"ab", EINVAL),
        (msgpack.packb(["uint8", [-1]]), EINVAL),
        (msgpack.packb(["uint8", ["1"]]) + b"a", EINVAL),
        (msgpack.packb(["text", [1]]) + b"a", EINVAL),
        (msgpack.packb(["uint8"]), EINVAL),
        (msgpack.packb({"uint8": [1]}) + b"a", EINVAL),
        (msgpack.packb(["uint8", [101]]) + bytes(101), ENOSPC),
    ],
)
def test_what_is_no_tensor_is_refused(guest: PlainGuest, tensors: TaskTensors, content: bytes, errno: int) -> None:
    """Goal: garbage gets an error number at the close, and leaves nothing. Method: heads and sizes that do not fit."""
    assert guest.write_new(content) == errno
    assert tensors.made() == ()
    assert guest.write_new(msgpack.packb(["uint8", [1]]) + b"a") == SUCCESS


def test_a_tensor_that_the_host_cannot_read(guest: PlainGuest, tensors: TaskTensors) -> None:
    """Goal: a fault of the host is none of the task. Method: a worker without a store."""
    without = TaskTensors(None)
    without.given = (SHARED,)
    process = Process(
        program_of((), (), ()), now_ms=0, entropy=bytes(32), memory_bytes=1 << 20, log=lambda *_: None, tensors=without
    )
    assert PlainGuest(process).open("rota/tensors/0", READ)[0] == EIO
    assert without.fault
    assert not tensors.fault


def test_tensors_of_a_call(tensors: TaskTensors) -> None:
    """Goal: a message of a call sees its own tensors behind those of the messages before, not those that a step made.

    Method: a process that begins without any, then one, then two; a tensor is made in between, and read from a
    descriptor that is still open.
    """
    tensors.given = ()
    process = Process(
        program_of((), (), ()), now_ms=0, entropy=bytes(32), memory_bytes=1 << 20, log=lambda *_: None, tensors=tensors
    )
    guest = PlainGuest(process)

    def go_on(count: int) -> None:
        tensors.end()
        tensors.given, tensors.earlier = (SHARED,) * count, count - 1
        process.go_on(now_ms=0, entropy=bytes(32), log=lambda *_: None)

    assert guest.open("rota/tensors/0", READ)[0] != SUCCESS
    go_on(1)
    assert guest.read_file("rota/tensors/0") == b"data"
    assert guest.write_new(msgpack.packb(["uint8", [3]]) + b"new") == SUCCESS
    assert guest.read_file("rota/tensors/1") == b"new"
    errno, kept = guest.open("rota/tensors/1", READ)
    assert errno == SUCCESS
    go_on(2)
    assert guest.read_file("rota/tensors/1") == b"data"
    assert guest.open("rota/tensors/2", READ)[0] != SUCCESS
    guest.write(1024, struct.pack("<II", 2048, 4096))
    assert guest.do("fd_read", kept, 1024, 1, 516) == SUCCESS
    assert bytes(guest.memory[2048:2051]) == b"new"


def test_the_tensors_of_a_call_are_bounded_for_each_message(tensors: TaskTensors) -> None:
    """Goal: what came with earlier messages takes no room of this one. Method: 300 before, 256 of its own."""
    tensors.given, tensors.earlier, tensors.bytes_max = (SHARED,) * 301, 300, 1_000
    for place in range(255):
        assert tensors.make("uint8", (1,), b"x") == 301 + place
    assert tensors.make("uint8", (1,), b"x") == -28
