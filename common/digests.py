"""The hash function, and values derived with it. PURE.

BLAKE3 everywhere (https://github.com/BLAKE3-team/BLAKE3-specs). A digest of structured data is taken over its canonical
MessagePack: arrays only, integers in their shortest form, str as UTF-8, bytes as bin. Changing anything here changes
every lane digest: it is a new format version (docs/JOURNAL.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import msgspec
from blake3 import blake3

DIGEST_BYTES: Final = 32
ZERO_DIGEST: Final = bytes(DIGEST_BYTES)

pack: Final = msgspec.msgpack.Encoder().encode  # the canonical MessagePack of a structure

_ENTROPY: Final = blake3(derive_key_context="rota 2026-11 task entropy")
_SEED_CONTEXT: Final = "rota 2026-11 lane seed"


def digest(data: bytes | memoryview) -> bytes:
    """Return the 32-byte BLAKE3 digest of `data`."""
    return blake3(data).digest()


def digest_of(value: Any) -> bytes:
    """Return the digest of the canonical MessagePack of lists, tuples, integers, str, bytes, bool and None."""
    return blake3(pack(value)).digest()


def lane_seed(lane: str) -> bytes:
    """Return the default seed of a lane, derived from its name."""
    return blake3(lane.encode(), derive_key_context=_SEED_CONTEXT).digest()


@lru_cache(maxsize=1)
def entropy(seed: bytes, turn: int) -> bytes:
    """Return the 32 random bytes of a turn: a counter-based generator keyed by the lane's seed.

    The last ones are kept: an agent's task asks for them twice.
    """
    hasher = _ENTROPY.copy()  # deriving the key each time would take longer than the rest
    hasher.update(seed + turn.to_bytes(8, "little"))
    return hasher.digest()
