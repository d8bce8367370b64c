"""Files in memory: what was written can be read, mapped and inherited, and nobody changes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rota.host.memory_file import MemoryFile

CONTENT = bytes(range(256)) * 2048  # more than one piece


@pytest.fixture
def file() -> MemoryFile:
    made = MemoryFile()
    made.write(CONTENT[:1000])
    made.write(memoryview(CONTENT)[1000:])
    made.seal()
    return made


def test_content(file: MemoryFile) -> None:
    """Goal: all ways to read give what was written. Method: pieces, a part, a part over the end, the path."""
    assert b"".join(bytes(piece) for piece in file.pieces()) == CONTENT
    assert file.size() == len(CONTENT)
    assert file.read(255, 3) == b"\xff\x00\x01"
    assert file.read(len(CONTENT) - 1, 100) == b"\xff"
    assert Path(file.path).read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has seals")
def test_nobody_changes_it(file: MemoryFile) -> None:
    """Goal: what was checked stays as it was. Method: write by this object, by a new descriptor, in a child."""
    with pytest.raises(PermissionError):
        file.write(b"more")
    with Path(file.path).open("r+b", buffering=0) as other:
        with pytest.raises(PermissionError):
            other.write(b"x")
        with pytest.raises(PermissionError):
            other.truncate(0)
    program = f"open({file.path!r}, 'r+b', buffering=0).write(b'x')"
    child = subprocess.run(
        [sys.executable, "-c", program], pass_fds=file.descriptors, stderr=subprocess.PIPE, check=False
    )
    assert b"PermissionError" in child.stderr
    assert file.read(0, 1) == CONTENT[:1]


def test_a_child_writes_and_reads(file: MemoryFile) -> None:
    """Goal: files go into and come out of a process. Method: a child copies one, by its path, to its output."""
    made = MemoryFile()
    program = f"import sys; sys.stdout.buffer.write(open({file.path!r}, 'rb').read())"
    subprocess.run([sys.executable, "-c", program], pass_fds=file.descriptors, stdout=made.fileno(), check=True)
    made.seal()
    assert made.read(0, len(CONTENT) + 1) == CONTENT
