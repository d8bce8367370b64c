"""Faults in what the core does for models: many assignments of one worker, streams of text, results that may differ.
For _mutations.py: the fields of its `Mutation`.
"""

from __future__ import annotations

from typing import Final

_DISPATCH: Final = ("tests/broker/test_dispatch.py",)
_STREAMS: Final = ("tests/broker/test_streams.py",)

MODEL_FAULTS: Final = (
    (
        "assignments-without-end",
        "a worker holds as many assignments as it said",
        "broker/dispatch.py",
        "and len(self.held) < self.settings.assignments_max\n",
        "and len(self.held) < 64\n",
        _DISPATCH,
    ),
    (
        "first-call-with-others",
        "a model call of unknown pace travels alone",
        "broker/dispatch.py",
        '{"cpu": 4, "gpu": 1}',
        '{"cpu": 4, "gpu": 4}',
        _DISPATCH,
    ),
    (
        "text-of-foreign-work",
        "a worker streams only for assignments that it holds",
        "broker/workers.py",
        "assignment = worker.held.get(number)",
        "assignment = broker.dispatcher.assignments.get(number)",
        _STREAMS,
    ),
    (
        "text-goes-on-after-a-death",
        "a piece of text replaces everything from its offset on",
        "broker/streams.py",
        "            kept.cut(offset)\n",
        "            kept.cut(kept.chars)\n",
        _STREAMS,
    ),
    (
        "text-for-everybody",
        "a text is published only while somebody follows its task",
        "broker/streams.py",
        " if task.seq in self._followed else None",
        "",
        _STREAMS,
    ),
    (
        "text-without-end",
        "the text of a task that has its outcome is forgotten",
        "broker/state.py",
        "        self.streams.end(notes.finished)\n",
        "",
        _STREAMS,
    ),
)
