"""Golden dialogues with the core: transcripts/*.txt.

A transcript begins with a description. Each line that starts with `>` is a command; below it are the broker's effects:
messages in the order of sending, records when they were durable, events. `pytest tests/broker --rewrite` records them
again; commit a changed transcript only if you can explain the change.

    producer NAME                        worker NAME [slots=N] [pool=gpu]
    deploy NAME TARGET [flow] [timeout_ms=N]    open NAME LANE [window=N] [tasks_max=N] [paused]
    submit NAME TARGET PROGRAM... [lane=L] [priority=N] [number=N] [deadline_ms=N]    ask (the same)
    cancel NAME SEQ     retry NAME SEQ [lane=L]     pause NAME LANE     release NAME LANE     await NAME SEQ
    finish WORKER       die WORKER       lie WORKER       keep WORKER       late WORKER       rejoin WORKER
    live MS             disk works|lags|full           restart          lane LANE
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_kit import Broker, SimWorker
from scripted import code, program

from rota.broker import records
from rota.broker.tasks import Agent
from rota.common import messages
from rota.common.assignments import FoldAssignment
from rota.common.events import LaneMoved, LaneOpened, LanePaused, NameBound
from rota.common.messages import Completed

_OF_LANES = (LaneOpened, LanePaused, NameBound, LaneMoved)
TRANSCRIPTS = sorted((Path(__file__).parent / "transcripts").glob("*.txt"))
MakeBroker = Callable[..., Broker]


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_dialogue_is_as_recorded(path: Path, make_broker: MakeBroker, request: pytest.FixtureRequest) -> None:
    """Goal: no dialogue with the core changes unseen. Method: carry out the commands and compare the whole text."""
    recorded = path.read_text(encoding="utf-8")
    found = Stage(make_broker()).play(recorded)
    if request.config.getoption("--rewrite", default=False):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_there_are_transcripts() -> None:
    """Goal: the test above cannot pass by finding nothing, and each transcript tells its story. Method: count."""
    assert len(TRANSCRIPTS) >= 7
    assert all(path.read_text(encoding="utf-8").startswith("# ") for path in TRANSCRIPTS)


class Stage:
    """A broker, and its producers and workers by name."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.people: dict[str, Any] = {}
        self.kept: dict[str, Completed] = {}
        self._written = len(broker.journal)

    def play(self, text: str) -> str:
        """Return the text with new output of its commands; comments and blank lines stay."""
        lines = []
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                lines.append(line)
            elif line.startswith(">"):
                lines += [line, *self.command(shlex.split(line[1:]))]
        return "\n".join(lines) + "\n"

    def command(self, words: list[str]) -> list[str]:
        """Carry out a command; return its output."""
        verb, *rest = words
        options = dict(word.split("=", 1) for word in rest if "=" in word and not word.startswith("["))
        plain = [word for word in rest if "=" not in word or word.startswith("[")]
        self.broker.sent.clear()
        self.broker.news.clear()
        shown = getattr(self, f"do_{verb}")(*plain, **{key: _value(value) for key, value in options.items()})
        written = [records.decode(body) for body in self.broker.journal[self._written :]]
        self._written = len(self.broker.journal)
        lines = [f"    disk  {_record(record)}" for record in written]
        sent = [send for send in self.broker.sent if not isinstance(send.message, messages.HeartbeatAck)]
        lines += [f"    {self.name_of(send.identity)} <- {_message(send.message)}" for send in sent]
        lines += [
            f"    news  {news.what.label} {_fields(news.what.fields)}"
            for news in self.broker.news
            if type(news.what) not in _OF_LANES
        ]
        return [*lines, *(f"    {line}" for line in shown or ())] or ["    nothing"]

    def name_of(self, identity: bytes) -> str:
        return next((name for name, one in self.people.items() if one.identity == identity), identity.decode())

    # --- commands ----------------------------------------------------------------------------------

    def do_producer(self, name: str) -> None:
        self.people[name] = self.broker.producer(name)

    def do_worker(self, name: str, **settings: Any) -> None:
        self.people[name] = self.broker.worker(name, **settings)

    def do_deploy(self, name: str, target: str, *flags: str, **limits: int) -> None:
        self.people[name].deploy(target, code(target, **limits)._replace(flow="flow" in flags))

    def do_open(self, name: str, lane: str, *flags: str, **settings: Any) -> None:
        self.people[name].open_lane(lane, paused="paused" in flags, deploys_from="main", **settings)

    def do_submit(self, name: str, target: str, *programs: str, **options: Any) -> None:
        self.people[name].submit(target, *(program(*json.loads(text)) for text in programs), **options)

    def do_ask(self, name: str, target: str, *programs: str, **options: Any) -> None:
        self.do_submit(name, target, *programs, kind="ask", **options)

    def do_cancel(self, name: str, seq: str) -> None:
        self.people[name].cancel(int(seq))

    def do_retry(self, name: str, seq: str, lane: str = "main") -> None:
        self.people[name].submit_runs(retry_of=int(seq), lane=lane)

    def do_pause(self, name: str, lane: str) -> None:
        self.people[name].pause(lane)

    def do_release(self, name: str, lane: str) -> None:
        self.people[name].release(lane)

    def do_await(self, name: str, seq: str) -> None:
        self.people[name].await_results(int(seq))

    def do_finish(self, name: str) -> list[str]:
        return [] if self.people[name].finish() else [f"{name} has nothing to do"]

    def do_die(self, name: str) -> None:
        self.people[name].die()

    def do_lie(self, name: str) -> None:
        """Answer with a state that is not the one of the digest."""
        self.people[name].lie(state=b"999")

    def do_keep(self, name: str) -> None:
        """Run the oldest order and keep the answer."""
        self.kept[name] = self.people[name].compute(self.people[name].orders[0])

    def do_late(self, name: str, result: str = "") -> None:
        """Send the kept answer, with another result if one is given."""
        answer = self.kept[name]
        if result:
            fold = answer.folds[0]
            outcomes = (fold.outcomes[0]._replace(result=result.encode()), *fold.outcomes[1:])  # type: ignore[call-arg]
            answer = answer._replace(folds=(fold._replace(outcomes=tuple(outcomes)), *answer.folds[1:]))
        self.people[name].say(answer)

    def do_rejoin(self, name: str) -> None:
        """The worker's connection broke; it registers again and names what it holds."""
        worker: SimWorker = self.people[name]
        worker.register()

    def do_live(self, ms: str) -> None:
        self.broker.live(int(ms))

    def do_disk(self, how: str) -> None:
        if how in ("full", "works") and (how == "full" or self.broker.core.storage_full):
            self.broker.storage(full=how == "full")
            return
        self.broker.disk_works = how == "works"
        if self.broker.disk_works:
            self.broker.sync()

    def do_restart(self) -> None:
        self.broker.restart()

    def do_lane(self, name: str) -> list[str]:
        """Show a lane."""
        lane = self.broker.lane(name)
        line = " ".join(f"{task.turn}{'' if task.outcome is None else '+'}" for task in lane.line())
        waiting = " ".join(
            str(run.first_turn + index) for run in lane.waiting_runs() for index in range(run.issued, len(run.payloads))
        )
        states = " ".join(f"{address}={_state(agent)}" for address, agent in lane.agents.items())
        asks = [f"turn {turn} is owed by {ask.owner} as {ask.owes}" for turn, ask in lane.open.items()]
        return [
            f"retired {lane.retired}, digest {lane.digest.hex()[:16]}",
            f"line [{line}] waiting [{waiting}] timers {len(lane.timers)} dead {list(lane.dead)}",
            f"agents {states}",
            *[f"open: {', '.join(asks)}"] * bool(asks),
        ]


def _state(agent: Agent) -> str:
    if agent.call is None:
        return repr(agent.state) + (f" open {list(agent.open)}" if agent.open else "")
    return f"after {[step.task.turn for step in agent.call.steps]}, asked {list(agent.call.asked)}"


def _value(text: str) -> Any:
    return int(text) if text.lstrip("-").isdigit() else text


def _message(message: Any) -> str:
    match message:
        case messages.Assign():
            return f"Assign {message.assignment & 0xFFFF_FFFF}: {', '.join(map(_fold, message.folds))}"
        case messages.Results():
            items = message.items
            return "Results " + ", ".join(
                f"{item.seq} {item.result.decode() if item.ok else f'{item.kind}: {item.message}'}" for item in items
            )
        case messages.Revoke(assignment):
            return f"Revoke {assignment & 0xFFFF_FFFF}"
        case messages.Registered(boot, _, dropped):
            return f"Registered boot={boot} dropped={[number & 0xFFFF_FFFF for number in dropped]}"
    return f"{type(message).__name__} {_fields(message._asdict())}"


def _fold(fold: FoldAssignment) -> str:
    turns = [turn for part in fold.segments for turn in part.turns]
    if fold.past is not None:
        past = [step.task.turn for step in fold.past.steps]
        return f"{fold.address} turns {turns} after {past}, alive for {fold.past.alive}"
    may_settle = f" open {list(fold.open)}" if fold.open else ""
    return f"{fold.address} turns {turns} state {fold.state!r}{may_settle}"


def _record(record: Any) -> str:
    match record:
        case records.Epoch(boot):
            return f"Epoch {boot}"
        case records.Completion():
            folds = [f"{fold.address} turns {list(fold.turns)}" for fold in record.folds]
            return f"Completed {', '.join(folds)}"
        case records.Submitted():
            count = sum(len(run.payloads) for run in record.runs)
            what = f"{count} tasks" if record.retry_of is None else f"{record.retry_of} again"
            return f"Submitted {record.lane}@{record.position} from {record.first_seq}: {what}"
    hidden = ("origin", "now_ms", "code", "settings", "deploys", "facts")
    return f"{type(record).__name__} {_fields({k: v for k, v in record._asdict().items() if k not in hidden})}"


def _fields(fields: dict[str, Any]) -> str:
    shown = {key: value.hex()[:16] if type(value) is bytes else value for key, value in fields.items()}
    return " ".join(f"{key}={value!r}" for key, value in shown.items())
