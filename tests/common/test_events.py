"""Events: the table of docs/PROTOCOL.md equals the code, and each kind has its own topic and number."""

from __future__ import annotations

import re
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from rota.common import events, fields
from rota.common.shape import bare

PROTOCOL = Path(__file__).resolve().parents[2] / "docs" / "PROTOCOL.md"
KINDS = get_args(get_args(events.Happened)[0])
WORDS = {fields.Count: "count", fields.Name: "name", fields.Target: "target", fields.Digest: "digest"}


def test_the_table_of_events_is_that_of_the_code() -> None:
    """Goal: a watcher in another language reads events from the table. Method: number, class, topic and fields with
    their types of every event against its row, in order.
    """
    section = PROTOCOL.read_text(encoding="utf-8").partition("### Event\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (?:`(\w+)` )?\| (.*?) \| .*\|$", section, re.MULTILINE)
    wanted = []
    for kind in KINDS:
        hints = get_type_hints(kind, include_extras=True)
        told = ", ".join([f"`{name}` {words_of(hints[name])}" for name in kind.__struct_fields__])
        topic = events.TOPIC_OF.get(kind, "")
        wanted.append((str(kind.__struct_config__.tag), kind.__name__, topic, told))
    assert rows == wanted


def test_every_event_can_be_chosen_and_shown() -> None:
    """Goal: no event is left out. Method: all classes against the union, the topics and the numbers."""
    assert (
        set(events.Happening.__subclasses__()) == set(KINDS) == {*events.TOPIC_OF, events.Watching, events.TextStreamed}
    )
    assert len({kind.__struct_config__.tag for kind in KINDS}) == len(KINDS)
    told = events.WorkerLeft("w1", "its process ended", 3)
    assert (told.label, told.fields) == ("worker_left", {"worker": "w1", "reason": "its process ended", "held": 3})


def words_of(hint: Any) -> str:
    """What docs/PROTOCOL.md calls a type."""
    if hint in WORDS:
        return WORDS[hint]
    inner = bare(hint)
    if inner in (bool, str):
        return {bool: "bool", str: "text"}[inner]
    if NoneType in get_args(inner):
        return f"{words_of(get_args(inner)[0])} or nil"
    assert get_origin(inner) is tuple
    (item, *_) = get_args(inner)
    return "array of `[text, text]`" if get_origin(item) is tuple else f"array of {words_of(item)}s"
