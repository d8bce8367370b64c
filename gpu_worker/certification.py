"""Gets the certificate of a loaded model: from its file beside the model, or by probing in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rota.gpu_worker.certificate import Certificate, alone
from rota.gpu_worker.providers import OpenSession
from rota.gpu_worker.repository import ModelEntry


def certificate_of(
    entry: ModelEntry,
    opened: OpenSession,
    facts: Mapping[str, Any],
    *,
    threads: int,
    is_stopping: Callable[[], bool],
    say: Callable[[str], None],
) -> Certificate:
    """Return the certificate of a model for the session `opened`, probing the model if there is none on file.

    `facts` is its whole fingerprint (`session_facts`), `threads` the worker's setting. It can take minutes: `say` gets
    a text about the progress now and then, and the probes end soon after `is_stopping()` is true, with class D. Never
    raises: what cannot be probed is class D, with the reason. Callable in any thread.
    """
    assert entry.digest.hex() == facts["model"], (opened.provider, threads, is_stopping, say)
    return alone("it has not been probed", facts["probe"])
