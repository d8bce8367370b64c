"""One task, or one call of a flow, as a WASI process: its clock, its chance, its streams and its open files. PURE.

Everything follows from the task's inputs. The clock begins at the task's time and goes on by a fixed step each time it
is read, and by what `poll_oneoff` waits; nothing else takes time. The functions that a guest calls are in the files
*_functions.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from blake3 import blake3

from rota.wasi.descriptors import (
    FD_READ,
    FD_WRITE,
    FILE_RIGHTS,
    FOLDER_RIGHTS,
    Descriptor,
    Descriptors,
    OpenFile,
    OpenFolder,
    StandardStream,
)
from rota.wasi.files import FileNode, FileSystem, FolderNode
from rota.wasi.program import Program
from rota.wasi.shared_files import NULL, RANDOM
from rota.wasi.tensor_files import TensorSource, tensor_folder

STDIN: Final = 0
STDOUT: Final = 1
NS_PER_MS: Final = 1_000_000
CLOCK_STEP_NS: Final = 1_000  # by which a clock goes on each time that it is read
CLOCK_MAX_NS: Final = (1 << 63) - 1
FREEZE_FOLDER: Final = "rota"
FREEZE_FILE: Final = "freeze"

_CHANCE: Final = "rota 2026-11 the chance of a task"  # a context of BLAKE3's key derivation


class ProcessExit(Exception):
    """The process ends with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class FreezeReached(Exception):
    """The process asked to be stopped here, with a note. Only while an image is made."""

    def __init__(self, note: bytes) -> None:
        super().__init__(note)
        self.note = note


class Process:
    """The descriptors, files, clock and chance of one task."""

    def __init__(
        self,
        program: Program,
        *,
        now_ms: int,
        entropy: bytes,
        memory_bytes: int,
        stdin: bytes = b"",
        stdout_bytes_max: int | None = None,
        log: Callable[[int, bytes], None],
        freezes: bool = False,
        tensors: TensorSource | None = None,
    ) -> None:
        """Start with descriptors 0 to 2, and 3 for the folder `/`.

        `stdout_bytes_max`: keep that many bytes and one more of standard output; None: pass it to `log`, as standard
        error is, with its descriptor. `tensors`: those of the task, which become files.
        """
        self.program = program
        self.files = FileSystem(program.files, memory_bytes, self.now)
        self.descriptors = Descriptors(
            [StandardStream(0, FD_READ), StandardStream(1, FD_WRITE), StandardStream(2, FD_WRITE)]
        )
        rights = FILE_RIGHTS | FOLDER_RIGHTS
        self.descriptors.add(OpenFolder(self.files.root, rights, rights, flags=0, name=b"/"))
        self._start_ns = now_ms * NS_PER_MS
        self._elapsed_ns = 0
        self._entropy = entropy
        self._chance_used = 0
        self._stdin = stdin
        self._stdin_read = 0
        self._stdout_max = stdout_bytes_max
        self._stdout = bytearray()
        self._log = log
        self._tensors = tensors
        self.tensors = None if tensors is None else tensor_folder(self.files.root, tensors)
        self._freezes = freezes
        if freezes and self.files.root.get(FREEZE_FOLDER) is None:
            self.files.root.put(FREEZE_FOLDER, FolderNode(2, 1, None, self.now()))

    def go_on(self, *, now_ms: int, entropy: bytes, log: Callable[[int, bytes], None]) -> None:
        """Serve the next message of the same call: files stay, chance begins anew.

        The clock goes on to `now_ms`; it stays where it is if it is there already, since no clock may go back.
        """
        self._elapsed_ns = max(self._elapsed_ns, now_ms * NS_PER_MS - self._start_ns)
        self._entropy = entropy
        self._chance_used = 0
        self._log = log
        if self.tensors is not None:
            self.tensors.forget()
        elif self._tensors is not None:
            self.tensors = tensor_folder(self.files.root, self._tensors)

    # --- time and chance ------------------------------------------------------------------------------------------

    def now(self) -> int:
        """Return the time in nanoseconds since 1970, without reading the clock."""
        return min(self._start_ns + self._elapsed_ns, CLOCK_MAX_NS)

    def elapsed(self) -> int:
        """Return the nanoseconds since the start, without reading the clock."""
        return self._elapsed_ns

    def read_clock(self) -> None:
        """Let a step pass. Raises `FreezeReached` if the guest has asked for it."""
        self._elapsed_ns += CLOCK_STEP_NS
        if self._freezes:
            folder = self.files.root.get(FREEZE_FOLDER)
            note = folder.get(FREEZE_FILE) if isinstance(folder, FolderNode) else None
            if isinstance(note, FileNode) and not note.opens:
                raise FreezeReached(bytes(note.data))

    def wait(self, nanoseconds: int) -> None:
        """Let time pass."""
        self._elapsed_ns = min(self._elapsed_ns + nanoseconds, CLOCK_MAX_NS)

    def chance(self, size: int) -> bytes:
        """Return the next bytes of the task's chance: BLAKE3 of its entropy, as long as needed."""
        hasher = blake3(self._entropy, derive_key_context=_CHANCE)
        data = hasher.digest(size, seek=self._chance_used)
        self._chance_used += size
        return data

    # --- streams --------------------------------------------------------------------------------------------------

    def readable(self, stream: int, wanted: int) -> int:
        """Return how many of the wanted bytes a stream has."""
        if stream == STDIN:
            return min(wanted, len(self._stdin) - self._stdin_read)
        return wanted if stream == RANDOM else 0

    def read_stream(self, stream: int, size: int) -> bytes:
        """Return bytes that are `readable`."""
        if stream == RANDOM:
            return self.chance(size)
        start = self._stdin_read
        self._stdin_read += size
        return self._stdin[start : start + size]

    def write_stream(self, stream: int, data: bytes) -> None:
        if stream in (NULL, RANDOM):
            return
        if stream == STDOUT and self._stdout_max is not None:
            # One byte more than allowed shows that there was too much; the rest need not be kept.
            self._stdout += data[: max(0, self._stdout_max + 1 - len(self._stdout))]
        else:
            self._log(stream, data)

    def stdout(self) -> bytes:
        return bytes(self._stdout)

    # --- descriptors ----------------------------------------------------------------------------------------------

    def release(self, descriptor: Descriptor | None) -> None:
        """Note that a descriptor is closed."""
        if isinstance(descriptor, OpenFile):
            descriptor.node.opens -= 1
            self.files.release(descriptor.node)

    def close(self) -> None:
        """Release everything."""
        self.files.root = FolderNode(1, 1, None, 0)
        self.descriptors = Descriptors([])
