"""What a runtime (a language's interpreter in WebAssembly) needs from us: the protocol between images and languages.
PURE.

An *image* is an instance that was stopped and kept: its memory, the values of its globals, and a note of its driver
(addresses, table indices: whatever `step` needs). The machinery in cpu_worker/ makes and restores images and knows no
language. A `Driver` knows one language and sees an instance only as an `Interpreter`. It has three moments:

- `start`, once per host and user: from the fresh module to the *base image*, an initialised interpreter with the files
  below `rota/` loaded;
- `load`, once per deployed source: from the base image to the *agent image*, with the author's source loaded;
- `step`, once per task, in an instance made from the agent image and dropped afterwards; for a call of a flow once per
  message, all in one instance, which is as the step before left it.

The first two run in a throw-away process with their own bounds of fuel, memory and time, with `now_ms` 0 and entropy of
zeros, so that an image is the same everywhere. Of WASI an image keeps nothing: each restored instance has fresh
standard streams, no open files, and no files but those of the bundle. A driver keeps no state of its own: all of it is
in the note, since the three moments happen in different processes. `drivers.py` finds the driver of a runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn, Protocol

from rota.common.wasm_binary import FuncType

FREEZE_FILE: Final = "/rota/freeze"  # once a guest has written it, its next clock read stops it (see `Frozen`)
NOTE_BYTES_MAX: Final = 1 << 20  # of a driver's note, and of what a guest may write into FREEZE_FILE
TABLE_ARGUMENTS_MAX: Final = 4  # of `Interpreter.call_table`
READ_FREE_BYTES: Final = 64  # of one read: words and names, which the calls around them pay for
NESTED_CALLS_MAX: Final = 4  # of a guest by a host function that the guest has called, and so on


class Frozen(Exception):
    """The guest asked to be stopped while it ran: it wrote `note` into `FREEZE_FILE`, and then read a clock. Only while
    an image is made; in a task the file means nothing.

    Stopped at a clock read, since an interpreter may give up its lock around the calls of files. The call does not
    return, and its frames stay in the guest's memory: leave the stack pointer where it is, or set it below them.
    """

    def __init__(self, note: bytes) -> None:
        super().__init__(note)
        self.note = note


class GuestMemory(Protocol):
    """A guest's memory. Pointers and sizes in bytes, as unsigned integers. All three raise a fault of the guest (the
    task fails with `bad_output`, a deploy with `CodeError`) if the place is outside the memory; do not catch it.
    """

    def read(self, pointer: int, size: int) -> bytes:
        """Return a copy of `size` bytes. Costs the guest a unit of fuel per byte, if they are more than
        `READ_FREE_BYTES`.
        """
        ...

    def write(self, pointer: int, data: bytes) -> None: ...

    def word(self, pointer: int) -> int:
        """Return the little-endian u32 at `pointer`."""
        ...


class Interpreter(GuestMemory, Protocol):
    """A running instance of a runtime.

    Calls raise a fault of the guest when it traps, or uses up its fuel; do not catch that: the task, or the deploy,
    ends with it. They raise `Frozen` when the guest stops itself.
    """

    files: Mapping[str, bytes]
    """The files that the guest sees, by path without a leading slash: those of the bundle; in `start`, `rota/` only."""

    @property
    def args(self) -> tuple[str, ...]:
        """The arguments of the bundle, without those of the driver."""
        ...

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of the bundle."""
        ...

    stack_pointer: int
    """The module's first mutable i32 global, where LLVM keeps its stack pointer. Can be set."""

    def call(self, export: str, *arguments: int) -> int:
        """Call an export whose parameters and result are i32 or i64; return the result, unsigned, or 0 if it has none.

        `export` is one of the driver's `exports`.
        """
        ...

    def call_table(self, index: int, *arguments: int) -> int:
        """Call the function at an index of table 0, of type (i32, ...) -> i32 with at most `TABLE_ARGUMENTS_MAX`
        parameters; return its result, unsigned.
        """
        ...

    def charge(self, fuel: int) -> None:
        """Take fuel from the guest, before the host works on what it gave. Raises the guest's fault `fuel`."""
        ...

    def fail(self, kind: str, message: str) -> NoReturn:
        """End the task, or the deploy, with a fault of the guest: `memory`, `bad_output` or `trap`."""
        ...

    def add_pages(self, pages: int) -> int:
        """Grow the memory by pages of 64 KiB of zeros; return its old size in pages. Raises a fault of the guest
        (`memory`) if the task's memory has no room.
        """
        ...


class HostServices(Protocol):
    """What a host function may use of the task that runs, beside the guest itself."""

    def log(self, text: str) -> None:
        """Add lines to the task's log, within its bounds."""
        ...

    def tensor_read(self, index: int, offset: int, pointer: int, size: int) -> int:
        """Do what the import `rota.tensor_read` does."""
        ...

    def tensor_new(
        self, dtype_pointer: int, dtype_size: int, shape_pointer: int, rank: int, data_pointer: int, data_size: int
    ) -> int:
        """Do what the import `rota.tensor_new` does."""
        ...

    def charge(self, fuel: int) -> None:
        """Take fuel from the guest. A host function charges for what it does: about one unit per byte."""
        ...


class HostFunction(NamedTuple):
    """A function that a runtime imports beside WASI, `call(guest, services, *arguments) -> result`.

    Arguments are unsigned; the result is ignored where the type has none. It keeps nothing between calls, and may call
    the guest, `NESTED_CALLS_MAX` deep. A fault of the guest that it lets through ends the task; anything else that it
    raises is a bug.
    """

    type: FuncType  # i32 and i64 only
    call: Callable[..., int | None]


class Driver(Protocol):
    """Knows one language. Stateless; a module's constant `DRIVER` is one."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int:
        """Part of the images' names: raise it when `start`, `load` or the meaning of the note changes."""
        ...

    @property
    def args(self) -> tuple[str, ...]:
        """The arguments that the runtime sees, the name of the program first; those of the bundle come behind them."""
        ...

    @property
    def exports(self) -> tuple[str, ...]:
        """The exports of the runtime that are called; all others are taken away, which saves time per instance.
        `_start` is no exception. The module's start function and `_initialize`, if there are any, have run before
        `start` and are not called again.
        """
        ...

    @property
    def imports(self) -> Mapping[tuple[str, str], HostFunction]:
        """What the runtime imports beside WASI, by module and name."""
        ...

    def start(self, guest: Interpreter) -> bytes:
        """Initialise a fresh instance and return the note of the base image. Only files below `rota/` are there."""
        ...

    def load(self, guest: Interpreter, note: bytes, entry: str) -> bytes:
        """Load the source at path `entry` of the bundle (without a leading slash); return the agent image's note.

        Raises `CodeError` with the language's own message and traceback if that fails.
        """
        ...

    def step(self, guest: Interpreter, note: bytes, message: bytes) -> bytes:
        """Run one task, or the next message of a call: the array that `rota_step` gets, to the array that it returns
        (docs/AGENTS.md).

        In a call it must take the same fuel whether the steps before have just run or the instance was kept for hours.
        """
        ...
