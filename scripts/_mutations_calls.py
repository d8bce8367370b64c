"""Faults in answers that come later and in calls of flows. For _mutations.py: the fields of its `Mutation`."""

from __future__ import annotations

from typing import Final

_STORIES: Final = ("tests/broker/test_transcripts.py",)
_ASKS: Final = ("tests/broker/test_open_asks.py", "tests/broker/test_answers.py", *_STORIES)
_CALLS: Final = ("tests/broker/test_flow_calls.py", *_STORIES)
_SNAPSHOT: Final = ("tests/broker/test_snapshot.py",)
_PROOF: Final = ("tests/proof/test_calls.py",)
_ANSWERS: Final = "broker/lane_answers.py"

CALL_FAULTS: Final = (
    (
        "answered-and-still-open",
        "an ask that has its answer is not open any more",
        _ANSWERS,
        "        self.asks.close(ask)\n",
        "",
        _ASKS,
    ),
    (
        "hand-on-keeps-the-owner",
        "whoever was handed an ask owes its answer",
        _ANSWERS,
        "self.asks.move(ask, emit.target, self.next_turn)",
        "self.asks.move(ask, ask.owner, self.next_turn)",
        _ASKS,
    ),
    (
        "hand-on-answers-who-handed-on",
        "what was handed on answers whoever asked first",
        _ANSWERS,
        "first = emit.answers if ask is None else ask.turn",
        "first = emit.answers",
        _ASKS,
    ),
    (
        "ended-ask-is-answered-again",
        "an input that ends a wait gives the only answer",
        _ANSWERS,
        "        self._close(ask, failure)\n",
        "",
        _ASKS,
    ),
    (
        "end-before-the-retire-forgotten",
        "an input between completion and retire ends the wait",
        _ANSWERS,
        "        if task.ends is not None:\n",
        "        if task.ends is not None and task.turn < 0:\n",
        (*_ASKS, "tests/broker/test_reference.py"),
    ),
    (
        "nobody-wants-the-orphans",
        "what an ended call had asked is cancelled",
        _ANSWERS,
        "            self._notes.orphans += owner.call.asked\n",
        "",
        (*_STORIES, "tests/broker/test_answers.py"),
    ),
    (
        "timers-of-an-ended-call",
        "the timers of a call end with it",
        _ANSWERS,
        "        for key in call.timers:\n",
        "        for key in tuple(call.timers)[:0]:\n",
        (*_CALLS, "tests/broker/test_reference.py"),
    ),
    (
        "timer-of-the-last-step",
        "a timer that the last step of a call sets ends with it",
        _ANSWERS,
        "self._emit_all(task, outcome, call)  # what it asks now",
        "self._emit_all(task, outcome, None)  # what it asks now",
        (*_CALLS, "tests/broker/test_reference.py"),
    ),
    (
        "answer-to-an-ended-call",
        "nothing is stamped for a call that has ended",
        _ANSWERS,
        "asker = self.agents.get(asked.sender)",
        "asker = self.instance(asked.sender)",
        (*_CALLS, "tests/broker/test_reference.py"),
    ),
    (
        "call-of-the-new-deploy",
        "the code of a call is bound when it begins",
        "broker/lane.py",
        "return None if agent is None or agent.call is None else agent.call.code",
        "return None if agent is None else self.deploys.get(code_name(agent.address))",
        (*_STORIES, *_CALLS),
    ),
    (
        "message-after-the-end-fails",
        "a message that finds its call ended has no effect",
        "broker/lane.py",
        "return AFTER_END if task.run.to_call else unknown(task.address)",
        "return unknown(task.address)",
        (*_CALLS, "tests/broker/test_reference.py"),
    ),
    (
        "alive-behind-the-end",
        "messages behind the end of a call are not for its guest",
        "broker/calls.py",
        "return end is not None and task.place < end.place",
        "return end is not None",
        (*_CALLS, "tests/broker/test_reference.py"),
    ),
    (
        "postponed-as-done",
        "the digest says that a task was postponed",
        "common/work.py",
        "            return (_POSTPONED, None, (), outcome.emits)\n",
        "            return (_DONE, None, (), outcome.emits)\n",
        _STORIES,
    ),
    (
        "digest-without-answers",
        "the digest says which turn an emit answers",
        "common/work.py",
        "        return (_DONE, outcome.result, outcome.tensors, outcome.emits)\n",
        "        emits = tuple([emit._replace(answers=0) for emit in outcome.emits])\n"
        "        return (_DONE, outcome.result, outcome.tensors, emits)\n",
        _STORIES,
    ),
    (
        "growth-without-what-is-kept",
        "a postponed task counts its content among its growth",
        "common/budget.py",
        "        grown += own_bytes\n",
        "        grown += 0\n",
        ("tests/broker/test_open_asks.py", "tests/broker/test_flow_calls.py", "tests/broker/test_reference.py"),
    ),
    (
        "snapshot-without-the-last-message",
        "a snapshot keeps all messages of a call",
        "broker/snapshot.py",
        "call.turn, tuple(call.steps), call.fuel",
        "call.turn, tuple(call.steps[:-1]), call.fuel",
        _SNAPSHOT,
    ),
    (
        "snapshot-without-deadlines",
        "a snapshot keeps deadlines",
        "broker/snapshot.py",
        "self._lanes[row.place].deadlines[row.turn] = row.due_ms",
        "self._lanes[row.place].deadlines.pop(row.turn, None)",
        _SNAPSHOT,
    ),
    (
        "snapshot-without-open-turns",
        "a snapshot keeps what each agent may settle",
        "broker/snapshot.py",
        "        agent.open = row.open\n",
        "",
        _SNAPSHOT,
    ),
    (
        "code-of-calls-collected",
        "a compaction keeps the code that a call began with",
        "broker/code_uses.py",
        "    yield from _of_calls(lane)\n",
        "",
        ("tests/broker/test_compaction.py",),
    ),
    (
        "outsider-in-a-call",
        "nobody sends to a call",
        "broker/requests.py",
        'if "/~" in target and is_instance(target):',
        "if False:",
        _STORIES,
    ),
    (
        "cancel-of-another-turn",
        "an input that ends a wait names its task by turn in a lane alone",
        "runs/lane_record.py",
        "    moved = record._replace(seq=place.turn)\n",
        "    moved = record\n",
        _PROOF,
    ),
    (
        "other-path-as-not-executable",
        "a call that takes another path is a divergence",
        "proof/verify.py",
        "        if other_path_turn(outcome) is not None:\n",
        "        if other_path_turn(outcome) == 0:\n",
        _PROOF,
    ),
)
