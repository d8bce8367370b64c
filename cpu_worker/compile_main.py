"""The one-shot process that compiles one module: WASM on standard input, native code on standard output.

Compiling hostile input can take any amount of time and memory, and fuel does not cover it. So it runs in this process,
which has limits and holds no key, socket or file. With the argument `--copied-images` the code is for an engine that
copies the images of memories instead of mapping them; with `--component` the input is a component; `--runtime` raises
the limit of time. Exit codes: 0 done, 2 the module is not valid (the reason is on standard error), anything else: the
process hit its limits.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rota.common.limits import (
    COMPILE_MEMORY_BYTES_MAX,
    COMPILE_MS_MAX,
    COMPONENT_COMPILE_MS_MAX,
    MODULE_BYTES_MAX,
    RUNTIME_COMPILE_MS_MAX,
)

if TYPE_CHECKING:
    from wasmtime import Config

EXIT_INVALID: Final = 2
_SIGKILL: Final = 9
COPIED_IMAGES: Final = "--copied-images"
COMPONENT: Final = "--component"
RUNTIME: Final = "--runtime"


def main() -> int:
    """Compile standard input to standard output."""
    limit_resources(compile_ms_max(sys.argv))
    # Imported here so that the limits cover it too.
    from wasmtime import Module, WasmtimeError
    from wasmtime.component import Component

    from rota.cpu_worker.profile import new_component_engine, new_engine

    wasm = sys.stdin.buffer.read(MODULE_BYTES_MAX + 1)
    if len(wasm) > MODULE_BYTES_MAX:
        sys.stderr.write(f"larger than {MODULE_BYTES_MAX} bytes")
        return EXIT_INVALID
    try:
        configure = _copy_images if COPIED_IMAGES in sys.argv else None
        if COMPONENT in sys.argv:
            compiled = bytes(Component(new_component_engine(configure), wasm).serialize())
        else:
            compiled = bytes(Module(new_engine(configure), wasm).serialize())
    except WasmtimeError as error:
        sys.stderr.write(str(error))
        return EXIT_INVALID
    sys.stdout.buffer.write(compiled)
    return 0


def compile_ms_max(options: Sequence[str]) -> int:
    """Return how long a compile with these options may take, in processor time and by the clock."""
    if RUNTIME in options:
        return RUNTIME_COMPILE_MS_MAX
    return COMPONENT_COMPILE_MS_MAX if COMPONENT in options else COMPILE_MS_MAX


def was_killed(returncode: int) -> bool:
    """Return whether a process was ended from outside, as by a host that runs out of memory, not by its own limits."""
    return returncode == -_SIGKILL


def _copy_images(config: Config) -> None:
    config.memory_init_cow = False


def limit_resources(milliseconds: int, *, data_bytes: int = 0) -> None:
    """Limit processor time and address space where the platform can; elsewhere only the parent's timeout applies.

    A process that runs guests reserves far more address space than it uses: `data_bytes` bounds what it uses instead.
    Its limit of time ends it with SIGXCPU, so SIGKILL means that something else did (`was_killed`).

    Existing limits are lowered, never raised.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    seconds = max(1, milliseconds // 1000)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    last = seconds + 1 if hard == resource.RLIM_INFINITY else min(seconds + 1, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (min(seconds, last), last))
    wanted = [(resource.RLIMIT_CORE, 0)]
    if data_bytes:
        wanted.append((resource.RLIMIT_DATA, data_bytes))
    elif sys.platform != "darwin":  # macOS has this limit but refuses to set it
        wanted.append((resource.RLIMIT_AS, COMPILE_MEMORY_BYTES_MAX))
    for which, value in wanted:
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))


if __name__ == "__main__":
    sys.exit(main())
