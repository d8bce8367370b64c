"""The clocks of this host. Entry points make one and hand it down, so that whoever needs the time can be tested."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings in whole milliseconds."""

    def wall_ms(self) -> int:
        """Return milliseconds since 1970: what inputs are stamped with. It can jump."""
        ...

    def mono_ms(self) -> int:
        """Return milliseconds since some moment: for waits and deadlines. It never jumps."""
        ...


class HostClock:
    """The real ones."""

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def mono_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000
