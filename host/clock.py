"""The clocks of this host. Entry points make one and pass it down, so that code that needs the time can be tested."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings in whole milliseconds."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970, as stamped on inputs. It can jump."""
        ...

    def mono_ms(self) -> int:
        """Return monotonic milliseconds, for waits and deadlines."""
        ...


class HostClock:
    """The real clocks."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000
