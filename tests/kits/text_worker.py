"""A worker process that speaks by script, for tests of streams: `text_worker.py DIR NAME`.

It answers text tasks through the real session, loop and store of conversations; only the model is a script. The answer
of a generate task is its prompt, or its last message behind the number of messages before it, word by word. Some words
are done instead of said: `[gate]` waits until a file `gate` exists in DIR, `[die]` waits and then ends the process, the
first time; `[tick]` says a word again and again until the gate is there; `[hold]` waits for ever; `[cut]`
ends the text as too long; `[fail]` ends the task as `bad_input`, `[chance]` says another word in each process. A vector
of a text is its length and its number of words; its labels are `long` and `short`.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy

from rota.common.errors import BadPayload
from rota.common.text_calls import ChatMessage, EmbedCall, GenerateCall, decode_text_call
from rota.common.text_results import (
    ClassifyResult,
    EmbedResult,
    GenerateResult,
    TextResult,
    TokenLogprob,
    Usage,
    encode_text_result,
)
from rota.common.work import Done, Failed, FoldResult, Outcome, Provenance, TaskInput
from rota.conversations.store import ConversationStore
from rota.host.config import WorkerSettings
from rota.host.endpoints import RunFolder
from rota.host.service import run_process
from rota.tensors.arrays import inline
from rota.worker.executor import Ended, Job, Look, Looked, Outside, Report, Streaming
from rota.worker.loop import serve_worker

PROVENANCE = Provenance("bitwise", "script", bytes(32), "A", "no device speaks by script")
ASSIGNMENTS_MAX = 64
_GATE_POLL_S = 0.01


class Speech:
    """One task that is being answered, word by word."""

    def __init__(self, folder: Path, job: int, address: str, task: TaskInput) -> None:
        self.job = job
        self.outcome: Outcome | None = None
        self._folder = folder
        self._address = address
        self._task = task
        self._text = ""
        self._finish: Literal["stop", "length"] = "stop"
        self._before: tuple[ChatMessage, ...] = ()
        try:
            self._call = decode_text_call(task.payload)
            self._words = self._words_of(self._call) if isinstance(self._call, GenerateCall) else []
        except BadPayload as error:
            self._fail(error.message)

    def step(self) -> list[Report]:
        """Say a word, or end."""
        if not isinstance(self._call, GenerateCall):
            self._end(_texts_result(self._call))
            return []
        if not self._words:
            self._end(self._result(self._call))
            return []
        word = self._words[0]
        if word == "[hold]" or (word in ("[gate]", "[die]") and not (self._folder / "gate").exists()):
            return []
        if word == "[tick]" and not (self._folder / "gate").exists():
            time.sleep(_GATE_POLL_S)
        else:
            del self._words[0]
        if word == "[die]" and not (self._folder / "died").exists():
            (self._folder / "died").touch()
            os._exit(1)
        if word == "[fail]":
            self._fail("told to fail")
        if word == "[cut]":
            self._finish = "length"
        if word in ("[gate]", "[die]", "[fail]", "[cut]"):
            return []
        said = f"{os.getpid() if word == '[chance]' else word} "
        at, self._text = len(self._text), self._text + said
        return [Streaming(self.job, self._address, self._task.turn, at, said)]

    def _words_of(self, call: GenerateCall) -> list[str]:
        if call.messages is None:
            return (call.prompt or "").split()
        if call.conversation:
            with ConversationStore(RunFolder(self._folder).conversations) as store:
                self._before = store.history(call.conversation)
        count = len(self._before) + len(call.messages) - 1
        return [f"{count}:", *call.messages[-1].content.split()]

    def _result(self, call: GenerateCall) -> GenerateResult:
        tokens = tuple(range(len(self._text.split())))
        head = None
        if call.conversation is not None and call.messages is not None:
            answer = ChatMessage("assistant", self._text)
            with ConversationStore(RunFolder(self._folder).conversations) as store:
                head = store.append(call.conversation, [*call.messages, answer])
        logprobs = None if call.logprobs is None else tuple([TokenLogprob(-0.5, ()) for _ in tokens])
        return GenerateResult(self._text, tokens, self._finish, None, Usage(7, len(tokens)), logprobs, None, head)

    def _end(self, result: TextResult) -> None:
        self.outcome = Done(encode_text_result(result), None, (), (), 0, ())

    def _fail(self, why: str) -> None:
        self.outcome = Failed("bad_input", why, (), 0)


def _texts_result(call: Any) -> TextResult:
    usage = Usage(sum(len(text) for text in call.texts))
    if isinstance(call, EmbedCall):
        rows = [[len(text), len(text.split())] for text in call.texts]
        return EmbedResult(inline(numpy.array(rows, numpy.float32)), usage)
    labels = [sorted(((("long", len(t) / 100), ("short", 1 - len(t) / 100))), key=lambda p: -p[1]) for t in call.texts]
    return ClassifyResult(tuple([tuple(pairs[: call.top]) for pairs in labels]), usage)


class ScriptedSpeaker:
    """An executor whose step gives every task a word, in turn. A thread wakes it while a gate is closed."""

    def __init__(self, folder: Path, outside: Outside) -> None:
        self._folder = folder
        self._outside = outside
        self._left: dict[int, list[list[Speech]]] = {}  # by job: the tasks of each fold
        self._dropped: dict[int, None] = {}
        self._ended = threading.Event()
        self._waker = threading.Thread(target=self._wake_at_times, daemon=True)
        self._waker.start()

    def fingerprint(self) -> Mapping[str, Any]:
        return {"script": "1"}

    def take(self, job: Job) -> None:
        if isinstance(job, Look):
            self._outside.tell(Looked(job.number, {"speaks": "by script"}, ""))
            return
        self._left[job.number] = [
            [Speech(self._folder, job.number, fold.address, task) for task in fold.tasks] for fold in job.folds
        ]

    def step(self) -> Sequence[Report]:
        reports: list[Report] = []
        for job, folds in list(self._left.items()):
            waiting = [speech for fold in folds for speech in fold if speech.outcome is None]
            for speech in waiting:
                reports += speech.step()
            if not waiting or job in self._dropped:
                del self._left[job]
                reports.append(Ended(job, None if waiting else tuple([_result(fold) for fold in folds]), 1))
            self._dropped.pop(job, None)
        if reports:
            self._outside.wake()
        return reports

    def drop(self, job: int) -> None:
        self._dropped[job] = None
        self._outside.wake()

    def close(self) -> None:
        self._ended.set()
        self._waker.join()

    def _wake_at_times(self) -> None:
        while not self._ended.wait(_GATE_POLL_S):
            if self._left:
                self._outside.wake()


def _result(fold: Sequence[Speech]) -> FoldResult:
    outcomes = [speech.outcome for speech in fold if speech.outcome is not None]
    return FoldResult(tuple(outcomes), None, provenance=PROVENANCE)


def main() -> int:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    settings = WorkerSettings(run_dir=folder, worker=name)
    return run_process(
        name,
        "info",
        lambda: serve_worker("gpu", settings, lambda outside: ScriptedSpeaker(folder, outside), ASSIGNMENTS_MAX),
    )


if __name__ == "__main__":
    sys.exit(main())
