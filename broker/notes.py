"""What records did to the lanes, for dispatch, results and events; the numbering that lanes share. PURE."""

from __future__ import annotations

from rota.broker.tasks import Run, Task, Timer


class Numbering:
    """The global sequence numbers: dense, from 1, over all lanes, never reused."""

    __slots__ = ("next_seq",)

    def __init__(self) -> None:
        self.next_seq = 1

    def take(self, tasks: int) -> int:
        """Return the first of `tasks` new sequence numbers."""
        first = self.next_seq
        self.next_seq += tasks
        return first


class Notes:
    """The effects of the last records, for dispatch, results and events."""

    __slots__ = ("answered", "caught", "finished", "issued", "orphans", "retired", "stamped", "timers")

    def __init__(self) -> None:
        self._clear()

    def take(self) -> Notes:
        """Return the notes so far and clear them."""
        taken = Notes.__new__(Notes)  # copy.copy would take ten times as long, for each record
        taken.stamped, taken.issued, taken.finished = self.stamped, self.issued, self.finished
        taken.retired, taken.timers, taken.caught = self.retired, self.timers, self.caught
        taken.answered, taken.orphans = self.answered, self.orphans
        self._clear()
        return taken

    def _clear(self) -> None:
        self.stamped: list[Run] = []
        self.issued: list[Task] = []  # to be executed, so without those that already have an outcome
        self.finished: list[Task] = []  # issued, and the outcome is there; if it is postponed, its task is pending
        self.caught: list[Task] = []  # the outcome is final before issue; in `finished` when they join the line
        self.retired: list[Task] = []
        self.timers: list[Timer] = []
        self.answered: list[Task] = []  # asks that were open, with their final outcomes
        # Turns whose answers nobody wants any more, since an input ended the ask or call that they are for; the broker
        # cancels those that can still be caught.
        self.orphans: list[int] = []
