"""The kinds of events for watchers, one class each, with its number on the wire. PURE.

An event holds one of these (`messages.Event`). On the wire it is an array of the number and the fields; a number is
never reused. To add one: its class, its topic in TOPICS_OF, its row in docs/PROTOCOL.md. Fields are only added at the
end, with a new protocol version.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, structs

from rota.common import limits
from rota.common.fields import Count, Digest, Name, Target, Text, Text32, WorkerName

Topic = Literal["lane", "task", "ask", "worker", "journal", "divergence"]

_Counts = Annotated[tuple[Count, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
_Targets = Annotated[tuple[Target, ...], Meta(max_length=limits.RUN_TASKS_MAX)]
_Facts = Annotated[tuple[tuple[Text, Text], ...], Meta(max_length=1_024)]


class Happening(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all events' contents."""

    @property
    def label(self) -> str:
        """Its name in lower case, as commands show it."""
        return re.sub(r"(?<=.)(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def fields(self) -> dict[str, Any]:
        """Its fields by name."""
        return structs.asdict(self)


class LaneOpened(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """A lane was opened."""

    paused: bool


class LanePaused(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """A lane was paused or released."""

    paused: bool


class NameBound(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """A name was bound to code."""

    name: Text
    code_digest: Digest


class LaneMoved(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """Tasks of a lane retired: its new position."""

    retired: Count
    digest: Digest
    waiting: Count


class TaskFailure(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=10):
    """The outcome of a task is a failure."""

    seq: Count
    turn: Count
    target: Target
    kind: Text32
    message: Text


class TaskUndone(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=11):
    """A worker returned a task undone: it could not do this one (`faulted`), or cannot run its code (`refused`)."""

    worker: WorkerName
    why: Text32
    seq: Count
    turn: Count
    target: Target
    reason: Text


class AskOpened(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=12):
    """A task was postponed: its answer is still to come. Published while somebody watches asks.

    `target`: the address that owes it. `asker`: the address that gets it, empty for a producer.
    """

    seq: Count
    turn: Count
    target: Target
    asker: Text


class AskAnswered(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=13):
    """The answer of a postponed task is there; as AskOpened otherwise. `kind`: of a failure, or empty."""

    seq: Count
    turn: Count
    target: Target
    kind: Text32


class WorkerJoined(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=20):
    """A worker registered. `facts`: its fingerprint, nested names with dots."""

    worker: WorkerName
    pool: Name
    facts: _Facts


class WorkerDraining(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=21):
    """A worker accepts no more work."""

    worker: WorkerName


class WorkerLeft(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=22):
    """A worker is gone; its work runs elsewhere. `held` nil: it ended in order."""

    worker: WorkerName
    reason: Text
    held: Count | None


class WorkerExpelled(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=23):
    """A worker was removed for an invalid answer."""

    worker: WorkerName
    reason: Text


class WorkerHeldUp(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=24):
    """A worker is stuck in these assignments; empty: no longer."""

    worker: WorkerName
    assignments: _Counts


class WorkerPreparing(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=25):
    """A worker compiles or loads code for these; empty: no longer."""

    worker: WorkerName
    targets: _Targets


class JournalChanged(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=30):
    """Writing the journal began to fail, or works again."""

    full: bool
    reason: Text


class OutcomesDiffer(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=40):
    """A task was executed twice with different outcomes; the first stands."""

    turn: Count
    target: Target
    worker: WorkerName


class Watching(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=50):
    """A subscription is active: the subscriber gets all events from here on."""

    topic: Text


class TextStreamed(Happening, frozen=True, array_like=True, forbid_unknown_fields=True, tag=60):
    """A running task has generated this text, from this offset in characters on; it replaces what was told from there
    on. Published to those who follow the task, and not counted.
    """

    seq: Count
    turn: Count
    offset: Count
    text: Text


ASKS: Final = "ask"  # published only while somebody is subscribed, since there may be two for each task
TOPIC_OF: Final[dict[type[Happening], Topic]] = {
    LaneOpened: "lane",
    LanePaused: "lane",
    NameBound: "lane",
    LaneMoved: "lane",
    TaskFailure: "task",
    AskOpened: ASKS,
    AskAnswered: ASKS,
    TaskUndone: "worker",
    WorkerJoined: "worker",
    WorkerDraining: "worker",
    WorkerLeft: "worker",
    WorkerExpelled: "worker",
    WorkerHeldUp: "worker",
    WorkerPreparing: "worker",
    JournalChanged: "journal",
    OutcomesDiffer: "divergence",
}
"""The topic of each. `Watching` is published under the topic subscribed to, `TextStreamed` under that of its task."""
TOPICS: Final = tuple(dict.fromkeys(TOPIC_OF.values()))

_text_match: Final = re.compile(r"\Atext\.([1-9][0-9]{0,15})\.\Z").match


def text_topic(seq: int) -> str:
    """Return the topic of a task's text while it runs."""
    return f"text.{seq}."


def followed_text(topic: str) -> int | None:
    """Return the seq of the task whose text is published under this topic; None for another topic."""
    found = _text_match(topic)
    return None if found is None else int(found[1])


def topic_of(what: Happening) -> str:
    """Return the topic under which an event is published."""
    if type(what) is TextStreamed:
        return text_topic(what.seq)
    return what.topic if type(what) is Watching else TOPIC_OF[type(what)]


Happened = Annotated[
    LaneOpened
    | LanePaused
    | NameBound
    | LaneMoved
    | TaskFailure
    | TaskUndone
    | AskOpened
    | AskAnswered
    | WorkerJoined
    | WorkerDraining
    | WorkerLeft
    | WorkerExpelled
    | WorkerHeldUp
    | WorkerPreparing
    | JournalChanged
    | OutcomesDiffer
    | Watching
    | TextStreamed,
    Meta(description="one of the events"),
]
