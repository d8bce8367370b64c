"""A worker process of `rota verify`: takes folds on its stdin, runs them, answers on its stdout.

    python -m rota.proof.process_main MODULES ARTEFACTS MODELS TENSORS CONVERSATIONS LENT_TENSORS LENT_CONVERSATIONS
        DEVICE

What is lent may be empty.

It exits when its stdin closes, whatever it is doing, so it never outlives its parent, on any system. What libraries
print goes to stderr.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from rota.common.errors import CodeError, RotaError
from rota.engine.executors import Executors, Folders
from rota.host.service import Exit
from rota.proof.frames import (
    AskFingerprint,
    PrepareCode,
    Request,
    decode_request,
    encode_answer,
    encode_error,
    encode_results,
    read_frame,
    write_frame,
)


def main(arguments: list[str]) -> None:
    """Serve requests until stdin closes."""
    faulthandler.enable()  # before the first engine: see cpu_worker/executor.py
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    modules, artefacts, models, tensors, conversations = map(Path, arguments[:5])
    lent_tensors, lent_conversations, certificates = (Path(one) if one else None for one in arguments[5:8])
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(sys.stdin.buffer, requests), name="requests", daemon=True).start()
    write_frame(answers, encode_answer({"ready": True}))
    folders = Folders(
        modules=modules,
        artefacts=artefacts,
        models=models,
        tensors=tensors,
        lent_tensors=lent_tensors,
        conversations=conversations,
        lent_conversations=lent_conversations,
        certificates=certificates,
    )
    with Executors(folders, device=arguments[8]) as executors:
        while True:
            write_frame(answers, _answer(executors, decode_request(requests.get())))


def _read(stream: BinaryIO, requests: queue.SimpleQueue[bytes]) -> None:
    """Queue the requests; at the end of the stream end the process, even in the middle of a task."""
    while (frame := read_frame(stream)) is not None:
        requests.put(frame)
    os._exit(Exit.OK)


def _answer(executors: Executors, request: Request) -> bytes:
    try:
        if isinstance(request, AskFingerprint):
            return encode_answer(executors.fingerprint(request.pool))
        if isinstance(request, PrepareCode):
            with contextlib.suppress(CodeError):  # the fold that needs it reports this
                executors.prepare(request.code, request.address)
            return encode_answer({})
        return encode_results(executors.run_all(request.folds))
    except RotaError as error:
        return encode_error(error)


if __name__ == "__main__":
    main(sys.argv[1:])
