"""MessagePack in plain Python.

The forms are the shortest there are, floats have 64 bits, maps keep their order: so equal values give equal bytes in
every language's SDK. Extensions and timestamps are not part of it.

It runs in an interpreter that is itself interpreted, where a call costs as much as ten other steps. So both directions
are one loop each over the items of a container, with the common forms in place, and containers of numbers of one form
are taken by `struct` as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from struct import Struct, error, unpack_from
from struct import pack as pack_format
from typing import Any, Final

DEPTH_MAX: Final = 200
MANY: Final = 16  # items from which it pays to look whether all have one form


def pack(value: Any) -> bytes:
    """Return `value` as MessagePack: None, bool, int (64 bits), float, str, bytes, list or tuple, dict; nested, and
    subclasses of these.

    Raises `TypeError` for other types, `OverflowError` for an int of more than 64 bits, `UnicodeEncodeError` for a str
    with lone surrogates, `ValueError` for a value more than `DEPTH_MAX` deep.
    """
    out = bytearray()
    _write_items(out, (value,), 0)
    return bytes(out)


def unpack(data: bytes) -> Any:
    """Return the one MessagePack value in `data`; arrays become lists.

    Raises `ValueError` if `data` is not exactly one value of the types that `pack` takes.
    """
    try:
        (value,), end = _read_items(data, 0, 1, 0)
    except (IndexError, error):
        end = len(data) + 1
    except UnicodeDecodeError as wrong:
        raise ValueError(f"a str in MessagePack that is not UTF-8: {wrong.reason}") from None
    if end > len(data):
        raise ValueError(f"the MessagePack value ends early: {len(data)} bytes")
    if end < len(data):
        raise ValueError(f"byte {end}: data after the MessagePack value")
    return value


# --- writing --------------------------------------------------------------------------------------

_FLOAT: Final = Struct(">Bd").pack
_UNSIGNED: Final = tuple((1 << 8 * size, code, Struct(f">B{form}").pack) for size, code, form in (
    (1, 0xCC, "B"), (2, 0xCD, "H"), (4, 0xCE, "I"), (8, 0xCF, "Q"),
))  # fmt: skip
_SIGNED: Final = tuple((-1 << 8 * size - 1, code, Struct(f">B{form}").pack) for size, code, form in (
    (1, 0xD0, "b"), (2, 0xD1, "h"), (4, 0xD2, "i"), (8, 0xD3, "q"),
))  # fmt: skip


def _write_items(out: bytearray, items: Sequence[Any], depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ValueError(f"a value more than {DEPTH_MAX} deep")
    if len(items) >= MANY and _write_numbers(out, items):
        return
    append = out.append
    for item in items:
        kind = type(item)
        if kind is str:
            data = item.encode()
            size = len(data)
            if size < 32:
                append(0xA0 | size)
            else:
                _write_size(out, size, 0xD9)
            out += data
        elif kind is int:
            if -32 <= item < 128:
                append(item & 0xFF)
            else:
                _write_int(out, item)
        elif item is None:
            append(0xC0)
        elif item is True:
            append(0xC3)
        elif item is False:
            append(0xC2)
        elif kind is float:
            out += _FLOAT(0xCB, item)
        elif kind is list or kind is tuple:
            _write_array(out, item, depth)
        elif kind is dict:
            _write_map(out, item, depth)
        elif kind is bytes:
            _write_bytes(out, item, depth)
        else:
            _write_other(out, item, depth)


def _write_numbers(out: bytearray, items: Sequence[Any]) -> bool:
    """Write items that are all floats, or all small ints; return whether they are."""
    kinds = set(map(type, items))
    if kinds == {float}:
        out += pack_format(">" + "Bd" * len(items), *chain.from_iterable(zip(repeat(0xCB), items)))
        return True
    if kinds == {int} and min(items) >= 0 and max(items) < 128:
        out += bytes(items)
        return True
    return False


def _write_int(out: bytearray, value: int) -> None:
    if value >= 0:
        for bound, code, packed in _UNSIGNED:
            if value < bound:
                out += packed(code, value)
                return
    else:
        for least, code, packed in _SIGNED:
            if value >= least:
                out += packed(code, value)
                return
    raise OverflowError(f"an int of {value.bit_length()} bits; MessagePack holds 64")


def _write_array(out: bytearray, items: Sequence[Any], depth: int) -> None:
    size = len(items)
    if size < 16:
        out.append(0x90 | size)
    else:
        _write_size(out, size, 0xDB)
    _write_items(out, items, depth + 1)


def _write_map(out: bytearray, value: Mapping[Any, Any], depth: int) -> None:
    size = len(value)
    if size < 16:
        out.append(0x80 | size)
    else:
        _write_size(out, size, 0xDD)
    _write_items(out, list(chain.from_iterable(value.items())), depth + 1)


def _write_bytes(out: bytearray, value: bytes | bytearray | memoryview, depth: int) -> None:
    data = bytes(value)
    _write_size(out, len(data), 0xC4)
    out += data


def _write_size(out: bytearray, size: int, code: int) -> None:
    """Write a size after its code. `code`: that of the form with one byte; arrays and maps have none, so of theirs the
    one before the form with two.
    """
    if size < 0x100 and code in (0xC4, 0xD9):
        out += bytes((code, size))
    elif size < 0x10000:
        out += pack_format(">BH", code + 1, size)
    else:
        out += pack_format(">BI", code + 2, size)


_OTHERS: Final[tuple[tuple[type | tuple[type, ...], Callable[[bytearray, Any, int], None]], ...]] = (
    (str, lambda out, value, depth: _write_items(out, (str(value),), depth)),
    (int, lambda out, value, depth: _write_items(out, (int(value),), depth)),
    (float, lambda out, value, depth: _write_items(out, (float(value),), depth)),
    ((bytes, bytearray, memoryview), _write_bytes),
    ((list, tuple), _write_array),
    (dict, _write_map),
)


def _write_other(out: bytearray, value: Any, depth: int) -> None:
    """Write a value of a subclass."""
    for known, write in _OTHERS:
        if isinstance(value, known):
            write(out, value, depth)
            return
    name = type(value).__name__
    raise TypeError(f"{name} has no form in MessagePack; use None, bool, int, float, str, bytes, list, tuple or dict")


# --- reading --------------------------------------------------------------------------------------

_CONSTANTS: Final = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS: Final = {
    0xCA: (5, "f"), 0xCB: (9, "d"), 0xCC: (2, "B"), 0xCD: (3, "H"), 0xCE: (5, "I"), 0xCF: (9, "Q"),
    0xD0: (2, "b"), 0xD1: (3, "h"), 0xD2: (5, "i"), 0xD3: (9, "q"),
}  # fmt: skip
_READERS: Final = {code: (size, Struct(f">{form}").unpack_from) for code, (size, form) in _NUMBERS.items()}
_SIZES: Final = {
    0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4), 0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4),
    0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip


def _read_items(data: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    """Return `count` values from byte `at` on, and the place after them. Where data ends early, either `IndexError` is
    raised or that place is behind the end.
    """
    if depth > DEPTH_MAX:
        raise ValueError(f"byte {at}: a value more than {DEPTH_MAX} deep")
    if count > len(data) - at:
        raise IndexError
    if count >= MANY and (items := _read_numbers(data, at, count)) is not None:
        return items, at + (count if data[at] < 0x80 else count * _NUMBERS[data[at]][0])
    items = []
    append = items.append
    for _ in range(count):
        code = data[at]
        at += 1
        if code < 0x80:
            append(code)
        elif 0xA0 <= code < 0xC0:
            end = at + (code & 0x1F)
            append(data[at:end].decode())
            at = end
        elif code >= 0xE0:
            append(code - 0x100)
        elif code in _READERS:
            size, read = _READERS[code]
            append(read(data, at)[0])
            at += size - 1
        elif code in _CONSTANTS:
            append(_CONSTANTS[code])
        elif code < 0xA0:
            value, at = _read_container(data, at, code & 0x0F, code < 0x90, depth + 1)
            append(value)
        else:
            value, at = _read_sized(data, at, code, depth)
            append(value)
    return items, at


def _read_numbers(data: bytes, at: int, count: int) -> list[Any] | None:
    """Return `count` numbers if all have the form of the first one, else None."""
    first = data[at]
    if first < 0x80:
        found = data[at : at + count]
        return list(found) if found.isascii() else None
    if first not in _NUMBERS:
        return None
    size, form = _NUMBERS[first]
    if data[at : at + size * count : size] != bytes((first,)) * count:
        return None
    return list(unpack_from(">" + f"x{form}" * count, data, at))


def _read_container(data: bytes, at: int, count: int, is_map: bool, depth: int) -> tuple[Any, int]:
    if not is_map:
        return _read_items(data, at, count, depth)
    items, end = _read_items(data, at, 2 * count, depth)
    try:
        return dict(zip(items[::2], items[1::2], strict=True)), end
    except TypeError:
        raise ValueError(f"byte {at}: a map with a key that is an array or a map") from None


def _read_sized(data: bytes, at: int, code: int, depth: int) -> tuple[Any, int]:
    """Read a value whose size follows its code."""
    if code not in _SIZES:
        raise ValueError(f"byte {at - 1}: the code {code:#x} is of a type that is not taken here")
    kind, width = _SIZES[code]
    size = int.from_bytes(data[at : at + width], "big")
    at += width
    if kind in ("array", "map"):
        return _read_container(data, at, size, kind == "map", depth + 1)
    found = data[at : at + size]
    return found if kind == "bin" else found.decode(), at + size
