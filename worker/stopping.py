"""When a running job that was told to stop counts as stuck. PURE."""

from __future__ import annotations

from rota.common.limits import STUCK_MS


class Stopping:
    """Since when a running job has been told to stop."""

    __slots__ = ("_since_s",)

    def __init__(self) -> None:
        self._since_s: float | None = None

    def is_stuck(self, now_s: float) -> bool:
        """Note that it is told to stop, perhaps again. True once: if the first time was over STUCK_MS ago."""
        if self._since_s is None:
            self._since_s = now_s
        elif now_s - self._since_s > STUCK_MS / 1_000:
            self._since_s = float("inf")
            return True
        return False
