"""A lane's dead letters: failed tasks, kept with what is needed to run them again. PURE.

Bounded by number, and by bytes on top of the lane's budget; the oldest is dropped first, so which are kept follows from
the lane alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping

from rota.broker.tasks import DeadTask
from rota.common.budget import TASK_BYTES, content_bytes
from rota.common.limits import DEAD_SHARE, DEAD_TASKS_MAX
from rota.common.work import TELL


class DeadLetters(Mapping[int, DeadTask]):
    """Dead letters by seq, the oldest first."""

    def __init__(self, lane_bytes_max: int) -> None:
        self.bytes_max = lane_bytes_max // DEAD_SHARE
        self.bytes = 0
        self._by_seq: OrderedDict[int, DeadTask] = OrderedDict()  # pops its first in constant time, unlike a dict

    def __getitem__(self, seq: int) -> DeadTask:
        return self._by_seq[seq]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_seq)

    def __len__(self) -> int:
        return len(self._by_seq)

    def keep(self, dead: DeadTask) -> None:
        """Keep one more and drop the oldest, or itself if it is too large alone."""
        self._by_seq[dead.seq] = dead
        self.bytes += _bytes(dead)
        while len(self._by_seq) > DEAD_TASKS_MAX or self.bytes > self.bytes_max:
            self.take(next(iter(self._by_seq)))

    def take(self, seq: int) -> DeadTask:
        """Remove one and return it."""
        dead = self._by_seq.pop(seq)
        self.bytes -= _bytes(dead)
        return dead

    def drop(self, seqs: Iterable[int]) -> int:
        """Drop these; return how many there were."""
        before = len(self._by_seq)
        for seq in seqs:
            self.take(seq)
        return before - len(self._by_seq)

    def renumber(self) -> None:
        """Give each its turn as its seq."""
        self._by_seq = OrderedDict((dead.turn, dead._replace(seq=dead.turn)) for dead in self._by_seq.values())

    def check_invariants(self) -> None:
        assert self.bytes == sum(map(_bytes, self.values()))
        assert self.bytes <= self.bytes_max


def retry_bytes(dead: DeadTask) -> int:
    """Return how many bytes the task of a dead letter counts when it is stamped again."""
    return TASK_BYTES + content_bytes(TELL, len(dead.payload), dead.tensors)


def _bytes(dead: DeadTask) -> int:
    """Return how many bytes a dead letter counts: its task, and what is kept about its failure."""
    said = len(dead.failure.message.encode()) + sum([len(line.encode()) for line in dead.failure.log])
    return retry_bytes(dead) + said
