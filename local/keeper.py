"""The records of a lane: in memory, or in a run file from the first one on.

With a run file, records are on the disk when the call that made them returns, in one transaction. Without one they are
kept for `save`. Either way they are what a broker writes, so every tool that reads runs accepts them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from rota.broker import records
from rota.broker.journal import Journal
from rota.broker.lock import FolderLock
from rota.common.code_kinds import kind_of
from rota.common.errors import CodeError, ConfigError
from rota.conversations.retention import copy_store
from rota.engine.model_files import find_model
from rota.host.endpoints import RunFolder
from rota.local.places import LanePlace
from rota.tensors.store import TensorStore

_BATCH_RECORDS: Final = 1_024


class Keeper:
    """Keeps each record, before it is applied."""

    def __init__(self, place: LanePlace, *, in_file: bool) -> None:
        """Raises `ConfigError` if the folder is in use."""
        self._place = place
        self._records: list[records.Record] = []  # all, or with a run file those not yet written
        self._journal: Journal | None = None
        self._open = contextlib.ExitStack()
        if in_file:
            with contextlib.ExitStack() as opening:
                opening.enter_context(FolderLock(place.run.root / "broker.lock"))
                self._journal = opening.enter_context(contextlib.closing(_new_journal(place.run.journal)))
                self._open = opening.pop_all()

    def take(self, record: records.Record) -> None:
        self._records.append(record)

    def flush(self) -> None:
        """Write to the run file, if there is one. Raises `StorageFull`; the next call tries again."""
        if self._journal is not None and self._records:
            self._journal.append(self._records)
            self._records.clear()

    def flush_many(self) -> None:
        """Write if many records wait; called during a long run."""
        if len(self._records) >= _BATCH_RECORDS:
            self.flush()

    def save(self, folder: Path, *, models: bool) -> None:
        """Make a run folder of all records so far, with the modules and tensors that they name.

        Raises `ConfigError` if there is a run already.
        """
        self.flush()
        target = RunFolder(folder)
        if target.journal.exists():
            raise ConfigError(
                f"{folder} holds a run already: name another folder, or remove that one", path=str(folder)
            )
        target.prepare()
        shutil.copytree(self._place.run.modules, target.modules, dirs_exist_ok=True)
        _copy_tensors(self._all(), TensorStore(self._place.tensors), TensorStore(target.tensors))
        copy_store(self._place.run.conversations, target.conversations)
        if models:
            _copy_models(self._all(), self._place.models, target.models)
        with contextlib.closing(_new_journal(target.journal)) as journal:
            found = self._all()
            while batch := list(islice(found, _BATCH_RECORDS)):
                journal.append(batch)

    def close(self) -> None:
        self._open.close()

    def _all(self) -> Iterator[records.Record]:
        if self._journal is None:
            yield from self._records
            return
        with contextlib.closing(Journal.open(self._place.run.journal, read_only=True)) as journal:
            yield from journal.read()


def _new_journal(path: Path) -> Journal:
    journal = Journal.open(path)
    for _ in journal.read():
        raise AssertionError("a new run file is empty")
    return journal


def _copy_tensors(found: Iterable[records.Record], source: TensorStore, target: TensorStore) -> None:
    for ref in dict.fromkeys(ref for record in found for ref in records.named_tensors(record)):
        target.put(source.open(ref))


def _copy_models(found: Iterable[records.Record], source: Path, target: Path) -> None:
    codes = [
        record.code for record in found if isinstance(record, records.Deployed) and not kind_of(record.code).is_kept
    ]
    for digest in dict.fromkeys(code.digest for code in codes):
        model = find_model(source, digest)
        if model is None:
            raise CodeError(f"no model in {source} has the digest {digest.hex()}: add it again, or save without models")
        shutil.copytree(model.folder, target / model.place)
