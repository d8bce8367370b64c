"""MessagePack in plain Python, for messages that are mostly small.

The forms are the shortest there are, floats have 64 bits, maps keep their order: so equal values give equal bytes in
every language's SDK. Extensions and timestamps are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from struct import Struct
from typing import Any, Final

DEPTH_MAX: Final = 200

_F32: Final = Struct(">f")
_F64: Final = Struct(">d")
_from_bytes: Final = int.from_bytes


def pack(value: Any) -> bytes:
    """Return `value` as MessagePack: None, bool, int (64 bits), float, str, bytes, list or tuple, dict; nested, and
    subclasses of these.

    Raises `TypeError` for other types, `OverflowError` for an int of more than 64 bits, `UnicodeEncodeError` for a str
    with lone surrogates, `ValueError` for a value more than `DEPTH_MAX` deep.
    """
    out = bytearray()
    _write(out, value, 0)
    return bytes(out)


def unpack(data: bytes) -> Any:
    """Return the one MessagePack value in `data`; arrays become lists.

    Raises `ValueError`, naming the byte, if `data` is not exactly one value of the types that `pack` takes.
    """
    try:
        value, end = _read(data, 0, 0)
    except IndexError:
        raise ValueError(f"the MessagePack value ends early: {len(data)} bytes") from None
    if end != len(data):
        raise ValueError(f"byte {end}: data after the MessagePack value")
    return value


# --- writing --------------------------------------------------------------------------------------


def _write(out: bytearray, value: Any, depth: int) -> None:
    writer = _WRITERS.get(type(value)) or _writer_of_subclass(value)
    if depth > DEPTH_MAX:
        raise ValueError(f"a value more than {DEPTH_MAX} deep")
    writer(out, value, depth)


def _writer_of_subclass(value: Any) -> Callable[[bytearray, Any, int], None]:
    for known, writer in _WRITERS.items():
        if isinstance(value, known):
            return writer
    name = type(value).__name__
    raise TypeError(f"{name} has no form in MessagePack; use None, bool, int, float, str, bytes, list, tuple or dict")


def _write_none(out: bytearray, value: None, depth: int) -> None:
    out.append(0xC0)


def _write_bool(out: bytearray, value: bool, depth: int) -> None:
    out.append(0xC3 if value else 0xC2)


def _write_int(out: bytearray, value: int, depth: int) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
        return
    for least, bound, code, size in _INTS:
        if least <= value < bound:
            out.append(code)
            out += value.to_bytes(size, "big", signed=value < 0)
            return
    raise OverflowError(f"an int of {value.bit_length()} bits; MessagePack holds 64")


_INTS: Final = (
    *((0, 1 << 8 * size, code, size) for code, size in ((0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8))),
    *((-1 << 8 * size - 1, 0, code, size) for code, size in ((0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8))),
)  # each: from, to, code, bytes


def _write_float(out: bytearray, value: float, depth: int) -> None:
    out.append(0xCB)
    out += _F64.pack(value)


def _write_str(out: bytearray, value: str, depth: int) -> None:
    data = value.encode()
    size = len(data)
    if size < 32:
        out.append(0xA0 | size)
    else:
        _write_size(out, size, (0xD9, 0xDA, 0xDB))
    out += data


def _write_bytes(out: bytearray, value: bytes | bytearray | memoryview, depth: int) -> None:
    data = bytes(value)
    _write_size(out, len(data), (0xC4, 0xC5, 0xC6))
    out += data


def _write_array(out: bytearray, value: list[Any] | tuple[Any, ...], depth: int) -> None:
    size = len(value)
    if size < 16:
        out.append(0x90 | size)
    else:
        _write_size(out, size, (0, 0xDC, 0xDD))
    depth += 1
    for item in value:
        _write(out, item, depth)


def _write_map(out: bytearray, value: Mapping[Any, Any], depth: int) -> None:
    size = len(value)
    if size < 16:
        out.append(0x80 | size)
    else:
        _write_size(out, size, (0, 0xDE, 0xDF))
    depth += 1
    for key, item in value.items():
        _write(out, key, depth)
        _write(out, item, depth)


def _write_size(out: bytearray, size: int, codes: tuple[int, int, int]) -> None:
    """Write a length of 1, 2 or 4 bytes after its code; a code of 0 is a form that there is not."""
    if size < 0x100 and codes[0]:
        out.append(codes[0])
        out.append(size)
    elif size < 0x10000:
        out.append(codes[1])
        out += size.to_bytes(2, "big")
    else:
        out.append(codes[2])
        out += size.to_bytes(4, "big")


# bool before int, since it is one.
_WRITERS: Final[dict[type, Callable[[bytearray, Any, int], None]]] = {
    type(None): _write_none,
    bool: _write_bool,
    int: _write_int,
    float: _write_float,
    str: _write_str,
    bytes: _write_bytes,
    bytearray: _write_bytes,
    memoryview: _write_bytes,
    list: _write_array,
    tuple: _write_array,
    dict: _write_map,
}

# --- reading: each returns the value and the place after it -----------------------------------------


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    code = data[at]
    at += 1
    if code < 0x80:
        return code, at
    if code < 0x90:
        return _read_map(data, at, code & 0x0F, depth)
    if code < 0xA0:
        return _read_array(data, at, code & 0x0F, depth)
    if code < 0xC0:
        return _read_str(data, at, code & 0x1F)
    if code >= 0xE0:
        return code - 0x100, at
    kind, size = _FORMS[code - 0xC0]
    if kind == "constant":
        return size, at
    end = at + size
    number = _from_bytes(_slice(data, at, end), "big", signed=kind == "signed")
    if kind == "bin":
        return _slice(data, end, end + number), end + number
    if kind == "str":
        return _read_str(data, end, number)
    if kind == "array":
        return _read_array(data, end, number, depth)
    if kind == "map":
        return _read_map(data, end, number, depth)
    if kind == "float":
        return (_F64 if size == 8 else _F32).unpack(data[at:end])[0], end
    if kind == "none":
        raise ValueError(f"byte {at - 1}: code {code:#x} is not one of MessagePack's that are taken here")
    return number, end


_FORMS: Final[tuple[tuple[str, Any], ...]] = (
    ("constant", None), ("none", 0), ("constant", False), ("constant", True),
    ("bin", 1), ("bin", 2), ("bin", 4), ("none", 0), ("none", 0), ("none", 0),
    ("float", 4), ("float", 8), ("unsigned", 1), ("unsigned", 2), ("unsigned", 4), ("unsigned", 8),
    ("signed", 1), ("signed", 2), ("signed", 4), ("signed", 8),
    ("none", 0), ("none", 0), ("none", 0), ("none", 0), ("none", 0),
    ("str", 1), ("str", 2), ("str", 4), ("array", 2), ("array", 4), ("map", 2), ("map", 4),
)  # fmt: skip


def _slice(data: bytes, start: int, end: int) -> bytes:
    if end > len(data):
        raise IndexError
    return data[start:end]


def _read_str(data: bytes, at: int, size: int) -> tuple[str, int]:
    end = at + size
    try:
        return _slice(data, at, end).decode(), end
    except UnicodeDecodeError:
        raise ValueError(f"byte {at}: a str that is not UTF-8") from None


def _read_array(data: bytes, at: int, count: int, depth: int) -> tuple[list[Any], int]:
    depth = _deeper(at, depth)
    items: list[Any] = []
    for _ in range(count):
        value, at = _read(data, at, depth)
        items.append(value)
    return items, at


def _read_map(data: bytes, at: int, count: int, depth: int) -> tuple[dict[Any, Any], int]:
    depth = _deeper(at, depth)
    found: dict[Any, Any] = {}
    for _ in range(count):
        key, end = _read(data, at, depth)
        if type(key) in (list, dict):
            raise ValueError(f"byte {at}: a key that is an array or a map")
        found[key], at = _read(data, end, depth)
    return found, at


def _deeper(at: int, depth: int) -> int:
    if depth >= DEPTH_MAX:
        raise ValueError(f"byte {at}: a value more than {DEPTH_MAX} deep")
    return depth + 1
