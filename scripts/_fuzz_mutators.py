"""Mutators for the fuzz targets: bytes, MessagePack trees and JSON trees, changed by a seeded `Random`.

Mutation starts from valid inputs, so that inputs pass the first checks and reach later ones. MessagePack is written by
our own packer, because a decoder must also handle what no packer writes: headers longer than needed, values deeper than
any stack, maps with duplicate keys, extensions of any type. Nothing here depends on a target.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

import msgpack

_EDGES: Final = (
    0, 1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 4_096, 65_535, 65_536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
    1 << 32, (1 << 53) - 1, 1 << 53, (1 << 62) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1,
)  # fmt: skip
_DEPTHS: Final = (2, 30, 64, 65, 300, 511, 700, 900, 1_000, 1_015, 1_022, 1_030, 5_000)
_TEXTS: Final = (
    "", "a", "main", "a/b", "model:m", "/", "a" * 65, "é" * 40, "\0", "\u2028", "🦀", "x" * 5_000, "-1", "0x1", "..",
    "٣", "tell", "ask", "timer",
)  # fmt: skip

Mutator = Callable[[Random, Any, Any], Any]


class Raw(bytes):
    """Bytes in a tree in place of an encoded value."""


class Pairs(list[tuple[Any, Any]]):
    """A map as written, possibly with duplicate keys."""


# --- bytes --------------------------------------------------------------------------------------------------------


def mutate_bytes(rng: Random, data: bytes, other: bytes) -> bytes:
    """Return `data` with one to three mutations; some splice in parts of `other`."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_BYTE_DAMAGE)(rng, out, other)
    return bytes(out)


def _flip(rng: Random, out: bytearray, other: bytes) -> None:
    if out:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)


def _overwrite(rng: Random, out: bytearray, other: bytes) -> None:
    if out:
        out[rng.randrange(len(out))] = rng.choice((0, 1, 0x7F, 0x80, 0xC0, 0xC1, 0xFF, rng.randrange(256)))


def _insert(rng: Random, out: bytearray, other: bytes) -> None:
    at = rng.randint(0, len(out))
    out[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 9)))


def _delete(rng: Random, out: bytearray, other: bytes) -> None:
    start, end = _piece(rng, len(out))
    del out[start:end]


def _repeat(rng: Random, out: bytearray, other: bytes) -> None:
    start, end = _piece(rng, len(out))
    out[end:end] = bytes(out[start:end]) * rng.choice((1, 1, 2, 20))


def _cut(rng: Random, out: bytearray, other: bytes) -> None:
    del out[rng.randint(0, len(out)) :]


def _splice(rng: Random, out: bytearray, other: bytes) -> None:
    start, end = _piece(rng, len(out))
    first, last = _piece(rng, len(other))
    out[start:end] = other[first:last]


def _set_number(rng: Random, out: bytearray, other: bytes) -> None:
    size = rng.choice((1, 2, 4, 8))
    at = rng.randint(0, max(0, len(out) - size))
    number = rng.choice(_EDGES) & ((1 << (8 * size)) - 1)
    out[at : at + size] = number.to_bytes(size, rng.choice(("big", "little")))


def _piece(rng: Random, size: int) -> tuple[int, int]:
    start = rng.randint(0, size)
    return start, min(size, start + rng.choice((1, 2, 4, 16, 64, size)))


_BYTE_DAMAGE: Final = (_flip, _flip, _overwrite, _overwrite, _insert, _delete, _repeat, _cut, _splice, _set_number)

# --- MessagePack --------------------------------------------------------------------------------------------------


def mutate_msgpack(rng: Random, data: bytes, other: bytes) -> bytes:
    """Mutate the bytes or their value, or write the same value in another encoding."""
    way = rng.randrange(10)
    if way < 3:
        return mutate_bytes(rng, data, other)
    tree, donor = _unpacked(data), _unpacked(other)
    try:
        for _ in range(rng.choice((1, 1, 2)) if way < 9 else 0):
            tree = mutate_tree(rng, tree, donor)
        return pack_tree(tree, rng if way > 6 else None)
    except RecursionError:  # in this file, not in the target: the input is too deep to walk
        return mutate_bytes(rng, data, other)


def _unpacked(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=False, object_pairs_hook=Pairs)
    except (ValueError, msgpack.UnpackException):
        return Raw(data)


def pack_tree(value: Any, loose: Random | None = None) -> bytes:
    """Return the MessagePack of a tree; with `loose` some headers and integers are longer than needed."""
    if isinstance(value, Raw):
        return bytes(value)
    if isinstance(value, Pairs | dict):
        pairs = list(value.items()) if isinstance(value, dict) else value
        inner = b"".join(pack_tree(item, loose) for pair in pairs for item in pair)
        return _header(len(pairs), loose, fix=(0x80, 16), sizes=((2, 0xDE), (4, 0xDF))) + inner
    if isinstance(value, list | tuple):
        inner = b"".join(pack_tree(item, loose) for item in value)
        return _header(len(value), loose, fix=(0x90, 16), sizes=((2, 0xDC), (4, 0xDD))) + inner
    if isinstance(value, str):
        text = value.encode("utf-8", "surrogatepass")
        return _header(len(text), loose, fix=(0xA0, 32), sizes=((1, 0xD9), (2, 0xDA), (4, 0xDB))) + text
    if isinstance(value, bytes):
        return _header(len(value), loose, fix=(0, 0), sizes=((1, 0xC4), (2, 0xC5), (4, 0xC6))) + value
    if type(value) is int and not -(1 << 63) <= value < 1 << 64:
        value = value % (1 << 64)
    if type(value) is int and value >= 0 and loose is not None:
        return _header(value, loose, fix=(0, 128), sizes=((1, 0xCC), (2, 0xCD), (4, 0xCE), (8, 0xCF)))
    packed: bytes = msgpack.packb(value)
    return packed


def _header(number: int, loose: Random | None, fix: tuple[int, int], sizes: tuple[tuple[int, int], ...]) -> bytes:
    base, below = fix
    fits = [(size, tag) for size, tag in sizes if number < 1 << (8 * size)]
    if loose is not None and loose.random() < 0.2:
        size, tag = loose.choice(fits)
    elif number < below:
        return bytes([base + number])
    else:
        size, tag = fits[0]
    return bytes([tag]) + number.to_bytes(size, "big")


# --- trees --------------------------------------------------------------------------------------------------------


def mutate_tree(rng: Random, tree: Any, donor: Any) -> Any:
    """Return the tree with one node changed, at any depth; replacements come from `donor`."""
    if isinstance(tree, list) and tree and rng.random() < 0.8:
        at = rng.randrange(len(tree))
        child = tree[at]
        if rng.random() < 0.25:
            return type(tree)(_rearranged(rng, list(tree), at))
        if isinstance(child, tuple):  # an entry of a map
            key, inner = child
            entry = (
                (mutate_tree(rng, key, donor), inner) if rng.random() < 0.3 else (key, mutate_tree(rng, inner, donor))
            )
            return type(tree)([*tree[:at], entry, *tree[at + 1 :]])
        return type(tree)([*tree[:at], mutate_tree(rng, child, donor), *tree[at + 1 :]])
    return _other_value(rng, tree, donor)


def _rearranged(rng: Random, items: list[Any], at: int) -> list[Any]:
    match rng.randrange(4):
        case 0:
            del items[at]
        case 1:
            items[at:at] = [items[at]] * rng.choice((1, 1, 3, 300))
        case 2:
            items.insert(0, items.pop(at))
        case _:
            del items[at:]
    return items


def _other_value(rng: Random, value: Any, donor: Any) -> Any:
    way = rng.randrange(8)
    if way < 3:
        if type(value) is int:
            return rng.choice((value + 1, value - 1, -value, value * 256, rng.choice(_EDGES)))
        if isinstance(value, str):
            return rng.choice(
                (value + "x", value[:-1], value * 2, value.upper(), rng.choice(_TEXTS), Raw(b"\xa2\xc3\x28"))
            )
        if isinstance(value, bytes):
            return rng.choice((value + b"\0", value[:-1], mutate_bytes(rng, value, value), b"", bytes(5_000)))
    if way == 3:
        return [value]
    if way == 4:
        return _part_of(rng, donor)
    return _any_value(rng)


def _any_value(rng: Random) -> Any:
    return rng.choice(
        (
            None, True, False, [], Pairs(), Pairs([("a", 1), ("a", 2)]), Pairs([([], 1)]), rng.choice(_EDGES),
            -rng.choice(_EDGES), rng.choice(_TEXTS), rng.randbytes(rng.choice((0, 1, 32, 33, 300))), 1.5, float("nan"),
            float("inf"), [0] * rng.choice((16, 65, 300)), deep(rng),
            msgpack.ExtType(rng.randrange(128), rng.randbytes(3)),
            Raw(b"\xd6\xff" + rng.randbytes(4)), Raw(b"\xc1"), Raw(rng.randbytes(2)), "\ud800",
        )
    )  # fmt: skip


def deep(rng: Random) -> Raw:
    """Return nested arrays or maps, about as deep as some stack allows, or deeper."""
    depth = rng.choice(_DEPTHS)
    return Raw((b"\x91" if rng.random() < 0.7 else b"\x81\xa1k") * depth + b"\xc0")


def _part_of(rng: Random, tree: Any) -> Any:
    while isinstance(tree, list | tuple) and tree and rng.random() < 0.7:
        tree = rng.choice(tree)
    return Pairs([tree]) if isinstance(tree, tuple) and len(tree) == 2 else tree


# --- JSON ---------------------------------------------------------------------------------------------------------


def mutate_json(rng: Random, text: bytes, other: bytes) -> bytes:
    """Mutate the bytes of a JSON text, or its value."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, text, other)
    try:
        tree, donor = (json.loads(one, object_pairs_hook=Pairs) for one in (text, other))
    except (ValueError, RecursionError):
        return mutate_bytes(rng, text, other)
    for _ in range(rng.choice((1, 1, 2))):
        tree = mutate_tree(rng, tree, donor)
    return json_of(rng, tree).encode("utf-8", "surrogatepass")


def json_of(rng: Random, value: Any) -> str:
    """Return the JSON of a tree; values without a JSON form become something similar."""
    if isinstance(value, Pairs):
        return "{" + ", ".join(f"{_json_key(rng, key)}: {json_of(rng, item)}" for key, item in value) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(json_of(rng, item) for item in value) + "]"
    if isinstance(value, Raw):
        depth = rng.choice((1, 60, 900, 5_000, 100_000))
        return "[" * depth + "]" * depth
    if not isinstance(value, str | int | float | None):  # bytes, extensions
        return rng.choice(("NaN", "-Infinity", "1e999", "9" * 5_000, '"\\ud800"', '"' + "ab" * 32 + '"'))
    return json.dumps(value)


def _json_key(rng: Random, key: Any) -> str:
    return json.dumps(key) if isinstance(key, str) else json.dumps(str(key)[:40])
