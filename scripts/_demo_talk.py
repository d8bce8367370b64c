"""What the agents' demo shows while it runs: the text of the model's answers, as it comes, and who asked for it."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from pathlib import Path

from _demo_screen import Step

from rota.client import Client
from rota.client.generation import Generation
from rota.common.errors import RotaError

_LOOK_SECONDS = 0.5
_WAIT_SECONDS = 0.01  # for the next piece of one answer
_SHOWN_CHARS = 40


class Preparing:
    """Shows in a thread how long a worker has been preparing a model, while the deploy that waits for it blocks."""

    def __init__(self, place: Path, step: Step) -> None:
        self._place = place
        self._step = step
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="preparing", daemon=True)

    def __enter__(self) -> Preparing:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self._place) as client:
            while not self._ended.wait(_LOOK_SECONDS):
                with contextlib.suppress(RotaError, TimeoutError):
                    for worker in client.query("workers"):
                        for address, elapsed_ms in worker["preparing"]:
                            text = f"loading {address}, probing how its answers repeat: {elapsed_ms // 1000} s"
                            self._step.show(text)


class Talk:
    """Follows the running asks to the model: the broker says which there are, and their text comes as it is made.

    An answer that begins and ends between two looks is not shown; the report at the end has it.
    """

    def __init__(self, client: Client, lane: str, model: str) -> None:
        self._client = client
        self._lane = lane
        self._target = f"model:{model}"
        self._running: dict[int, tuple[str, Generation]] = {}
        self._texts: dict[int, str] = {}
        self._seen: set[int] = set()
        self._taught: set[str] = set()
        self.bids: Counter[str] = Counter()
        self.titles = 0

    def show(self, step: Step) -> None:
        """Take what has been said since the last call; finished titles are printed, bids are counted."""
        for task in self._client.query("tasks", lane=self._lane, state="running", limit=256):
            if task["target"] == self._target and task["seq"] not in self._seen:
                self._seen.add(task["seq"])
                self._running[task["seq"]] = (task["sender"], Generation(self._client, task["seq"], _WAIT_SECONDS))
                self._texts[task["seq"]] = ""
        for seq, (sender, answer) in list(self._running.items()):
            try:
                self._texts[seq] += next(answer)
            except TimeoutError:
                continue
            except (StopIteration, RotaError):
                self._end(seq, sender, answer, step)

    @property
    def now(self) -> str:
        """The end of what is being said now, of the answer that is longest."""
        texts = [(len(text), self._running[seq][0], text) for seq, text in self._texts.items() if text.strip()]
        if not texts:
            return ""
        _, sender, text = max(texts)
        return f"{sender}: {' '.join(text.split())[-_SHOWN_CHARS:]}"

    def _end(self, seq: int, sender: str, answer: Generation, step: Step) -> None:
        del self._running[seq]
        del self._texts[seq]
        answer.close()
        try:
            result = answer.result()
        except RotaError as error:
            step.remark(f"{sender} got no answer: {error}")
            return
        if result.logprobs is not None:
            self.bids[sender.rpartition("/")[2]] += 1
        elif sender not in self._taught:
            self._taught.add(sender)
            step.remark(f"{sender} has learned from examples what a title is")
        else:
            self.titles += 1
            step.remark(f"{sender} writes: {' '.join(result.text.split())}")
