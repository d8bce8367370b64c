"""Fork: a new run folder that shares a prefix with a run, then continues with one thing changed.

The new run has the one lane, from its first record. Its Epoch says what it was forked from, at which turn and digest,
and what was changed. It can be verified, and a broker can be started on it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from rota.broker import records, snapshot
from rota.broker.journal import Journal
from rota.broker.modules import ModuleStore
from rota.broker.producers import Producers
from rota.broker.recovery import facts
from rota.broker.snapshot_store import SnapshotStore
from rota.common.code_kinds import IS_BUNDLE, kind_of
from rota.common.messages import Accepted
from rota.common.work import Code
from rota.conversations.retention import copy_store
from rota.engine.executors import Executors, Folders
from rota.host.endpoints import RunFolder
from rota.host.new_folder import new_folder
from rota.proof.changed import ChangePlan, Consequences, follow_change
from rota.runs.open import RunSource
from rota.runs.walk import Walk
from rota.runtimes.content import Extras, Parts, Paths, content_like, content_of

_BATCH_RECORDS: Final = 1_024
_FACT_CHARS_MAX: Final = 200


def fork(
    source: RunSource,
    plan: ChangePlan,
    deploys: Sequence[NewCode],
    folder: Path,
    what: str,
    *,
    device: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> Consequences:
    """Make `folder` a run that continues from a turn with a change; return how it differs.

    `deploys` is the code that the change deploys; `what` describes the change in a line. Raises `ConfigError`
    if the folder exists, and what `follow_change` raises; on an error no folder is left behind.
    """
    with new_folder(folder) as draft:
        run = RunFolder(draft).prepare()
        for part in ("modules", "models", "tensors"):
            copy_folder(getattr(source, part), getattr(run, part))
        copy_store(source.conversations, run.conversations)
        add_code(run.modules, deploys)
        folders = Folders(modules=run.modules, artefacts=source.artefacts, models=run.models, tensors=run.tensors)
        with contextlib.closing(Journal.open(run.journal)) as journal, Executors(folders, device=device) as executors:
            for _ in journal.read():
                raise AssertionError("a new run file is empty")
            now_ms = time.time_ns() // 1_000_000
            boot, producers = _begin_cut(journal, Walk(source), plan.lane, now_ms)
            writer = _Writer(journal, producers)
            origin = (("forked_from", source.name), ("forked_at", f"lane {plan.lane}, turn {plan.turn}"))
            told = tuple([(name, text[:_FACT_CHARS_MAX]) for name, text in (*origin, ("change", what))])
            writer.take(records.Epoch(boot, now_ms, facts() + told))
            came = follow_change(source, plan, executors, keep=writer.take, progress=progress)
            writer.take(records.Mark(plan.lane, came.retired, came.digest))
            writer.flush()
    return came


class NewCode(NamedTuple):
    """Code that is deployed in a changed run: its name, and its bytes by digest, as far as they are not there yet."""

    name: str
    code: Code
    parts: Parts

    @classmethod
    def like(cls, name: str, old: Code | None, module: Paths | bytes, modules: Path) -> NewCode:
        """Return code that takes the place of a binding: called, limited and started in the same way.

        Of a bundle only the program, or of a source the main file, is replaced; a folder replaces all files of a
        source. `modules`: the folder with the old code. Raises `CodeError` if it cannot be read.
        """
        if old is None:
            content = content_of(module, None, Extras())
            return cls(name, Code(content.digest, content.kind, flow=content.flow), content.parts)
        bundle = ModuleStore(modules).bundle(old.digest) if kind_of(old).content == IS_BUNDLE else None
        content = content_like(old.kind, bundle, module)
        return cls(name, old._replace(digest=content.digest), content.parts)


def add_code(folder: Path, deploys: Iterable[NewCode]) -> None:
    """Check code as a broker does and store it. Raises `CodeError`."""
    for name, code, parts in deploys:
        ModuleStore(folder).bring(name, code, parts)


def _begin_cut(journal: Journal, walk: Walk, lane: str, now_ms: int) -> tuple[int, Producers]:
    """Return the next boot number, and the producers known so far.

    If the lane was open before the first kept record, start the journal with a snapshot in place of the first records,
    like a compacted one.
    """
    begin = walk.lane_world(lane)
    if begin is None:
        return 1, Producers()
    begin.producers = walk.world.producers  # a request sent again gets its old answer
    opened = records.Epoch(begin.boot + 1, now_ms, facts())
    begin.apply(opened)
    journal.append([opened])
    store = SnapshotStore(journal)
    named = store.write(journal.last_number, snapshot.encode(snapshot.take(begin)), journal.chain)
    journal.append([named])
    store.cut(named)
    while not store.drop_cut(_BATCH_RECORDS):
        pass
    return opened.boot + 1, begin.producers


class _Writer:
    """Writes records to a journal, many at a time."""

    def __init__(self, journal: Journal, producers: Producers) -> None:
        self._journal = journal
        self._producers = producers
        self._waiting: list[records.Record] = []

    def take(self, record: records.Record) -> None:
        self._waiting.append(self._asked_once(record))
        if len(self._waiting) >= _BATCH_RECORDS:
            self.flush()

    def _asked_once(self, record: Any) -> records.Record:
        """Return a record without its request if its number was used: producers are forgotten later than in the run
        that is forked, which has other lanes.
        """
        origin: records.Origin | None = getattr(record, "origin", None)
        if origin is None:
            return cast(records.Record, record)
        if not self._producers.is_new(origin):
            return cast(records.Record, record._replace(origin=records.NOBODY))
        self._producers.remember(origin, Accepted(origin.number, 0, 0))
        return cast(records.Record, record)

    def flush(self) -> None:
        self._journal.append(self._waiting)
        self._waiting = []


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of files that never change, with hard links where the file system has them."""
    if source.is_dir():
        ignored = shutil.ignore_patterns("drafts", "lock")  # of the tensor store, in use by its owner
        shutil.copytree(source, target, ignore=ignored, copy_function=_link_or_copy, dirs_exist_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or no hard links
        shutil.copy2(source, target)
