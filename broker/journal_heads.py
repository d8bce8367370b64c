"""Finds the heads of conversations that the records and snapshots of a journal name, without decoding them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from rota.broker.journal import Journal
from rota.broker.snapshot_store import SnapshotStore
from rota.conversations.named import NamedHeads

_RECORDS_AT_ONCE: Final = 1_000


def heads_named_by(journal: Journal, heads: Collection[bytes]) -> NamedHeads:
    """Search every kept record and every snapshot: for calls and results that name a head, and for `heads` anywhere.

    Raises `JournalError` for a file that cannot be read. The chain is not checked.
    """
    found = NamedHeads(heads)
    store = SnapshotStore(journal)
    for named in store.named():
        for part in store.parts(named.number):
            found.see(part)
    extent = journal.extent()
    for first in range(extent.first, extent.last + 1, _RECORDS_AT_ONCE):
        for entry in journal.log.entries(first, min(_RECORDS_AT_ONCE, extent.last + 1 - first)):
            found.see(entry.body)
    return found
