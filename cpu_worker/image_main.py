"""The one-shot process that makes one image: an order on standard input, the image on standard output.

A source may do anything while it loads. Fuel and memory bound it, as they bound a task, and this process is thrown
away; it holds no key or socket, and of files only the sealed ones that it begins with (host/memory_file.py). Exit
codes: 0 done, 2 the source or the runtime cannot be used (the reason is on standard error), anything else: the process
hit its limits.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from rota.common.limits import IMAGE_MS_MAX
from rota.cpu_worker.compile_main import EXIT_INVALID, limit_resources
from rota.cpu_worker.profile import IMAGE_MEMORY_BYTES, use_large_thread_stacks

if TYPE_CHECKING:
    from rota.cpu_worker.image_making import Order

# Of writable memory: the guest's, twice more for the image's data and code, and the interpreter and libraries.
DATA_BYTES_MAX = 4 * IMAGE_MEMORY_BYTES + (1 << 30)


def main() -> int:
    """Make the image of the order on standard input."""
    limit_resources(IMAGE_MS_MAX, data_bytes=DATA_BYTES_MAX)
    # Imported here so that the limits cover it too.
    from rota.cpu_worker.image_making import decode_order

    order = decode_order(sys.stdin.buffer.read())
    ended: list[int] = []
    use_large_thread_stacks()
    thread = threading.Thread(target=lambda: ended.append(_make(order)))
    thread.start()
    thread.join()
    return ended[0] if ended else 1


def _make(order: Order) -> int:
    from rota.common.errors import CodeError
    from rota.cpu_worker.image import write
    from rota.cpu_worker.image_making import make_image
    from rota.host.float_environment import FloatEnvironment
    from rota.runtimes.drivers import driver_named

    floats = FloatEnvironment()
    floats.begin()
    try:
        native, facts = make_image(order, driver_named(order.driver))
    except CodeError as error:
        sys.stderr.write(error.message)
        return EXIT_INVALID
    finally:
        floats.end()
    write(sys.stdout.buffer, native, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
