"""The models that a worker holds, within a budget of memory.

A model is loaded by its first call and stays until another one needs its room. Then the ones without work leave, the
least recently used first. If that is not enough, the least recently used one with work is *closing*: what it holds is
finished, calls that come later wait until it is loaded again. So each model is served, whatever the load of others.

The size of a model is an estimate: twice its files, because a session holds its weights once or twice (prepacked for
the kernels), and its buffers. A model that is larger than the budget is loaded when no other is.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rota.common.messages import ModelNumbers
from rota.common.work import Provenance
from rota.gpu_worker.certificate import Certificate
from rota.gpu_worker.loaded_model import KEPT_BYTES_MAX, LoadedModel
from rota.gpu_worker.model_jobs import FoldRun, QueuedCall
from rota.gpu_worker.repository import ModelEntry
from rota.gpu_worker.text_model import EncodingModel, GeneratingModel
from rota.gpu_worker.waiting import WaitingCalls
from rota.worker.executor import Look

WEIGHTS_FACTOR: Final = 2
_WITHOUT_SYSCONF_BYTES: Final = 4 << 30


def default_budget_bytes() -> int:
    """Return half of the host's memory."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return _WITHOUT_SYSCONF_BYTES


def estimated_bytes(entry: ModelEntry) -> int:
    """Return about how much memory a model takes, before it is loaded."""
    return WEIGHTS_FACTOR * entry.size_bytes + KEPT_BYTES_MAX


@dataclass(slots=True)
class Resident:
    """A loaded model. One that takes tensors or encodes texts has a `session`, one that generates has none."""

    entry: ModelEntry
    provenance: Provenance
    certificate: Certificate
    session: LoadedModel | None = None
    encoding: EncodingModel | None = None
    generating: GeneratingModel | None = None

    @property
    def held_bytes(self) -> int:
        more = self.generating.held_bytes if self.generating is not None else 0
        return estimated_bytes(self.entry) + more

    def description(self) -> Mapping[str, Any]:
        """Return a description for producers and operators, in MessagePack's types."""
        if self.session is not None:
            return self.session.description()
        assert self.generating is not None
        return {
            **self.generating.description(),
            "fingerprint": self.provenance.fingerprint,
            "class": self.provenance.result_class,
            "certificate": self.certificate.model_class,
            "certificate_reason": self.certificate.reason,
        }

    def close(self) -> None:
        if self.generating is not None:
            self.generating.close()


class ModelLine:
    """A model and what waits for it: calls if it is loaded, else folds and looks."""

    __slots__ = (
        "address", "calls", "closing", "digest", "entry", "folds", "loading", "looks", "reserved_bytes", "resident",
        "rows", "texts", "waiting",
    )  # fmt: skip

    def __init__(self, digest: bytes, address: str) -> None:
        self.digest = digest
        self.address = address
        self.entry: ModelEntry | None = None
        self.resident: Resident | None = None
        self.waiting: WaitingCalls[QueuedCall] = WaitingCalls()
        self.texts: dict[int, QueuedCall] = {}  # requests in progress, by number
        self.folds: deque[FoldRun] = deque()
        self.looks: deque[Look] = deque()
        self.loading = False
        self.reserved_bytes = 0  # while it loads
        self.closing = False
        self.calls = 0
        self.rows = 0

    @property
    def has_work(self) -> bool:
        return bool(self.waiting or self.texts)

    @property
    def wants_model(self) -> bool:
        return bool(self.folds or self.looks)

    def numbers(self) -> ModelNumbers:
        """Return what operators see of this model."""
        assert self.resident is not None
        provenance, generating = self.resident.provenance, self.resident.generating
        counters = generating.counters if generating is not None else {}
        return ModelNumbers(
            self.address, self.digest, provenance.provider, provenance.fallback, provenance.certificate,
            self.resident.held_bytes, self.calls, self.rows,
            counters.get("prefilled", 0), counters.get("cached", 0), counters.get("generated", 0),
        )  # fmt: skip


class Residents:
    """The loaded models, least recently used first, and the room that is left."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._lines: OrderedDict[bytes, ModelLine] = OrderedDict()  # loaded or loading

    def __iter__(self) -> Any:
        return iter([line for line in self._lines.values() if line.resident is not None])

    def used(self, line: ModelLine) -> None:
        """Note that a model was used."""
        self._lines.move_to_end(line.digest)

    def reserve(self, line: ModelLine, size_bytes: int) -> bool:
        """Make room for a model and reserve it; return whether there is room. If not, other models begin to close."""
        missing = self._held_bytes() + size_bytes - self.budget_bytes
        for other in [other for other in self._lines.values() if not (other.has_work or other.loading)]:
            if missing > 0:
                missing -= self.unload(other)
        if missing > 0 and self._lines:
            for other in self._lines.values():
                if missing > 0 and other.resident is not None:
                    other.closing = True
                    missing -= other.resident.held_bytes
            return False
        line.reserved_bytes = size_bytes
        line.loading = True
        self._lines[line.digest] = line
        return True

    def install(self, line: ModelLine, resident: Resident | None) -> None:
        """Note the end of a load; None if it failed."""
        line.loading, line.reserved_bytes, line.resident, line.entry = False, 0, resident, None
        if resident is None:
            del self._lines[line.digest]
            return
        self.used(line)
        missing = self._held_bytes() - self.budget_bytes
        for other in list(self._lines.values()):
            if missing > 0 and other is not line and not (other.has_work or other.loading):
                missing -= self.unload(other)

    def unload(self, line: ModelLine) -> int:
        """Drop a model without work; return what that frees."""
        assert line.resident is not None
        assert not line.has_work, line.address
        freed = line.resident.held_bytes
        line.resident.close()
        line.resident, line.closing = None, False
        del self._lines[line.digest]
        return freed

    def unload_idle(self, but: ModelLine) -> int:
        """Drop all models without work but one; return how many."""
        idle = [line for line in self if line is not but and not line.has_work]
        for line in idle:
            self.unload(line)
        return len(idle)

    def _held_bytes(self) -> int:
        return sum(
            [line.reserved_bytes + (line.resident.held_bytes if line.resident else 0) for line in self._lines.values()]
        )
