"""Faults in what the core does for models: many assignments of one worker, streams of text, results that may differ.
For _mutations.py: the fields of its `Mutation`.
"""

from __future__ import annotations

from typing import Final

_DISPATCH: Final = ("tests/broker/test_dispatch.py",)

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
)
