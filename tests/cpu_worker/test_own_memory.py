"""How much of a range of memory is written: for what it costs to keep a guest."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from rota.cpu_worker.own_memory import own_bytes

PAGE: Final = mmap.PAGESIZE
PAGES: Final = 64

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells it")


@pytest.fixture(params=["file", "nothing"])
def memory(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[mmap.mmap]:
    """Private memory of 64 pages, as an image is mapped, or as a guest's memory behind it is."""
    if request.param == "nothing":
        with mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE) as made:
            yield made
        return
    path = tmp_path / "image"
    path.write_bytes(b"image..." * (PAGES * PAGE // 8))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), PAGES * PAGE, flags=mmap.MAP_PRIVATE) as made:
        yield made


def address_of(memory: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def test_pages_that_are_written_count(memory: mmap.mmap) -> None:
    """Goal: a page counts when it is written, and one of a file not when it is read. Method: read most, write some; the
    whole range and parts of it.
    """
    address = address_of(memory)
    if memory[:5] == b"image":
        assert all(memory[page * PAGE] for page in range(PAGES - 10))
    else:
        memory.madvise(mmap.MADV_DONTNEED)  # reading memory that is of no file may count: it is a bound
    assert own_bytes(address, PAGES * PAGE) == 0
    for page in (0, 3, 4, 63):
        memory[page * PAGE + 7] = 1
    assert own_bytes(address, PAGES * PAGE) == 4 * PAGE
    assert own_bytes(address + 3 * PAGE + 5, PAGE) == 2 * PAGE
    assert own_bytes(address, 3 * PAGE) == PAGE
    assert own_bytes(address, 0) == 0


def test_a_host_that_does_not_tell(memory: mmap.mmap, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: what nobody can tell counts as written. Method: no such file, and one that ends too early."""
    (tmp_path / "short").write_bytes(bytes(64))
    for path in (tmp_path / "none", tmp_path / "short"):
        monkeypatch.setattr("rota.cpu_worker.own_memory._PAGEMAP", str(path))
        assert own_bytes(address_of(memory), PAGES * PAGE) == PAGES * PAGE
