"""The conversations in a store, for people: which there are, and what was said. Only reads; nothing counts as a use."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from rota.common.digests import DIGEST_BYTES
from rota.common.errors import ConversationError
from rota.common.text_calls import ChatMessage
from rota.conversations.chain import NODE_PREFIX, ChainNode, decode_message, decode_node
from rota.conversations.file import opened_to_read, usable

HEAD_CHARS_MIN: Final = 6  # of the beginning of a head that names it

_IS_NODE: Final = f"substr(data, 1, {len(NODE_PREFIX)}) = ?"


class Tip(NamedTuple):
    """A head behind which nothing was said. `used`: the day of its last use, since 1970."""

    head: bytes
    used: int
    messages: int
    last: ChatMessage | None  # None: it is missing or damaged


def tips(path: Path, limit: int) -> tuple[list[Tip], int]:
    """Return the ends of the conversations in a store, up to `limit`, and how many there are.

    Those of the latest day of use come first; those of one day in the order of their heads.
    """
    if not path.exists():
        return [], 0
    with usable(path), opened_to_read(path) as connection:
        rows = connection.execute(f"SELECT digest, data, used FROM blobs WHERE {_IS_NODE}", (NODE_PREFIX,))
        nodes = {digest: (decode_node(data), used) for digest, data, used in rows}
        continued = dict.fromkeys([node.parent for node, _ in nodes.values()])
        ends = sorted([(-used, digest) for digest, (_, used) in nodes.items() if digest not in continued])
        found: list[Tip] = []
        for used, digest in ends[:limit]:
            row = connection.execute("SELECT data FROM blobs WHERE digest = ?", (nodes[digest][0].message,)).fetchone()
            found.append(Tip(digest, -used, _length(nodes, digest), _message(row)))
    return found, len(ends)


def head_of(path: Path, text: str) -> bytes:
    """Return the head that begins with these hex digits. Raises `ConversationError` if there is none, or several."""
    text = text.lower()
    if not HEAD_CHARS_MIN <= len(text) <= 2 * DIGEST_BYTES or any(digit not in "0123456789abcdef" for digit in text):
        raise ConversationError(f"{text[:80]!r} is no head: give its first {HEAD_CHARS_MIN} to 64 hex digits")
    found: list[bytes] = []
    if path.exists():
        with usable(path), opened_to_read(path) as connection:
            low, high = (bytes.fromhex(text.ljust(64, digit)) for digit in "0f")
            rows = connection.execute(
                f"SELECT digest FROM blobs WHERE digest BETWEEN ? AND ? AND {_IS_NODE} LIMIT 2",
                (low, high, NODE_PREFIX),
            )
            found = [digest for (digest,) in rows]
    if len(found) != 1:
        problem = "several conversations in" if found else "no conversation in"
        raise ConversationError(f"{problem} {path} with a head {text}..: `rota conversation ls` lists the ends")
    return found[0]


def _length(nodes: dict[bytes, tuple[ChainNode, int]], head: bytes) -> int:
    count = 0
    place: bytes | None = head
    while place in nodes:
        count += 1
        place = nodes[place][0].parent
    return count


def _message(row: tuple[bytes] | None) -> ChatMessage | None:
    try:
        return None if row is None else decode_message(row[0])
    except ConversationError:
        return None
