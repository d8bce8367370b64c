"""Finds the heads of conversations that bytes name: records of a journal, snapshots, states of agents. PURE.

Two searches. A call or a result says `"conversation": bin 32`, and these MessagePack bytes stand unchanged in every
record that holds it. An agent's state has a form of its own, so there any 32 bytes that are a known head count as one,
and so do their 64 hex digits. A state that keeps heads in another form is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

import numpy as np

from rota.common.digests import DIGEST_BYTES

_SAID: Final = re.compile(rb"\xacconversation\xc4\x20(.{32})", re.DOTALL)
_HEX: Final = re.compile(rb"[0-9a-f]{64}")
_KEPT_BYTES: Final = 2 * DIGEST_BYTES - 1  # of a part: what is searched for may go on in the next one
_FILTER_BITS: Final = 24  # of a digest: most places are ruled out by looking at three bytes


class NamedHeads:
    """Collects heads from parts of a text of bytes, in which one may cross the border of two parts.

    `said`: those of calls and results, known or not. `known`: those of the given ones that occur anywhere.
    """

    def __init__(self, heads: Collection[bytes] = ()) -> None:
        """`heads` are looked up in, and not copied."""
        self.said: dict[bytes, None] = {}
        self.known: dict[bytes, None] = {}
        self._heads = heads
        self._before = b""
        self._filter = np.zeros(1 << _FILTER_BITS, np.bool_)
        for head in heads:
            self._filter[int.from_bytes(head[:3])] = True

    def see(self, part: bytes) -> None:
        """Search the next part."""
        text = self._before + part
        for match in _SAID.finditer(text):
            self.said[match[1]] = None
        if self._heads:
            for head in self._candidates(text):
                if head in self._heads:
                    self.known[head] = None
        self._before = text[-_KEPT_BYTES:]

    def _candidates(self, text: bytes) -> Iterator[bytes]:
        for match in _HEX.finditer(text):
            yield bytes.fromhex(match[0].decode())
        if len(text) < DIGEST_BYTES:
            return
        data = np.frombuffer(text, np.uint8)
        last = len(text) - DIGEST_BYTES + 1
        first_three = (
            (data[:last].astype(np.uint32) << 16) | (data[1 : last + 1].astype(np.uint32) << 8) | data[2 : last + 2]
        )
        places: list[int] = np.flatnonzero(self._filter[first_three]).tolist()
        for at in places:
            yield text[at : at + DIGEST_BYTES]
