"""Reads the elements of the WebAssembly binary format: integers, names, types, constant expressions. PURE.

wasm_module.py reads sections with it. Each reader either returns what the specification allows, or raises `CodeError`
with the offset; none reads past its section, and counts larger than the remaining bytes are refused.

Quoted titles are from the core specification, chapters "Binary Format" and "Validation":
https://webassembly.github.io/spec/core/binary/.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeVar

from rota.common.errors import CodeError
from rota.common.limits import WASM_ITEMS_MAX

T = TypeVar("T")

PAGES_MAX: Final = 65_536  # of 64 KiB: all that 32-bit addresses reach
_PARAMS_MAX: Final = 1_000  # as in the JavaScript API, "Implementation-defined Limits"


class FuncType(NamedTuple):
    params: tuple[str, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return f"({', '.join(self.params)}) -> ({', '.join(self.results)})"


class MemoryType(NamedTuple):
    """A memory's limits in pages of 64 KiB; `pages_max` None: no maximum."""

    pages_min: int
    pages_max: int | None


class TableType(NamedTuple):
    element: str
    items_min: int
    items_max: int | None


class GlobalType(NamedTuple):
    value: str
    mutable: bool


class Reader:
    """Reads a part of a module. Every error names the offset in the whole module."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data = data
        self.position = position
        self.end = end

    def error(self, message: str, offset: int) -> CodeError:
        return CodeError(f"malformed WebAssembly module at offset {offset}: {message}", offset=offset)

    def skip(self, size: int, what: str) -> int:
        """Skip `size` bytes and return where they began."""
        start = self.position
        if size > self.end - start:
            raise self.error(f"{what} ends too early ({size} bytes wanted, {self.end - start} left)", start)
        self.position = start + size
        return start

    def take(self, size: int, what: str) -> bytes:
        return self.data[self.skip(size, what) : self.position]

    def byte(self, what: str) -> int:
        return self.data[self.skip(1, what)]

    def peek(self) -> int | None:
        return self.data[self.position] if self.position < self.end else None

    def count(self, what: str) -> int:
        """Read a u32 ("Integers"): at most five bytes, unused bits of the last one zero."""
        start = self.position
        value = shift = 0
        while True:
            part = self.byte(what)
            value |= (part & 0x7F) << shift
            if value > 0xFFFF_FFFF or (part >= 0x80 and shift == 28):
                raise self.error(f"{what} is over 32 bits", start)
            if part < 0x80:
                return value
            shift += 7

    def signed(self, bits: int, what: str) -> int:
        """Read a signed integer ("Integers"): no longer than its bits need, unused bits equal to the sign."""
        start = self.position
        value = shift = 0
        while True:
            part = self.byte(what)
            value |= (part & 0x7F) << shift
            shift += 7
            if part < 0x80:
                break
            if shift >= bits:
                raise self.error(f"{what} is over {bits} bits", start)
        value -= (part & 0x40) << (shift - 6)
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            raise self.error(f"{what} is over {bits} bits", start)
        return value

    def items(self, what: str, most: int = WASM_ITEMS_MAX) -> int:
        """Read the length of a vector. Each element has at least a byte, so the bytes left bound it."""
        start = self.position
        length = self.count(f"the number of {what}")
        if length > self.end - self.position:
            raise self.error(f"{length} {what} in {self.end - self.position} bytes", start)
        if length > most:
            raise self.error(f"{length} {what} are over the limit of {most}", start)
        return length

    def name(self, what: str) -> str:
        """Read a name ("Names"): UTF-8 without surrogates, as in Python's decoder."""
        start = self.position
        raw = self.take(self.count(what), what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8", start) from error

    def index(self, space: Sequence[T], kind: str) -> T:
        start = self.position
        index = self.count(f"a {kind} index")
        if index >= len(space):
            raise self.error(f"{kind} {index} does not exist, there are {len(space)}", start)
        return space[index]

    def sub(self, size: int, what: str) -> Reader:
        """Return a reader for the next `size` bytes and skip them."""
        return Reader(self.data, self.skip(size, what), self.position)

    def expect_end(self, what: str) -> None:
        if self.position != self.end:
            raise self.error(f"{what} has {self.end - self.position} bytes too many", self.position)


# --- types ("Types") --------------------------------------------------------------------------------------------------

_VALUE_TYPES: Final = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
    0x69: "exnref",
}
_REFERENCE_TYPES: Final = ("funcref", "externref", "exnref")


def read_value_types(body: Reader) -> tuple[str, ...]:
    """Read a "Result Type"."""
    return tuple(read_value_type(body) for _ in range(body.items("value types", _PARAMS_MAX)))


def read_value_type(body: Reader) -> str:
    start = body.position
    code = body.byte("a value type")
    if code in (0x63, 0x64):  # "Reference Types": (ref null? heap type)
        heap = body.signed(33, "a heap type")
        return f"(ref {'null ' if code == 0x63 else ''}{heap})"
    name = _VALUE_TYPES.get(code)
    if name is None:
        raise body.error(f"0x{code:02x} is no value type that is known here", start)
    return name


def _limits(body: Reader, what: str, most: int) -> tuple[int, int | None]:
    """Read "Limits". Flag bit 0: has a maximum, bit 1: shared, bit 2: 64-bit."""
    start = body.position
    flags = body.byte(f"the limits of a {what}")
    if flags > 1:
        feature = {2: "threads (shared memory)", 3: "threads (shared memory)"}.get(
            flags, "64-bit or other unusual limits"
        )
        raise body.error(f"a {what} uses {feature}: build without", start)
    least = body.count(f"the minimum of a {what}")
    largest = body.count(f"the maximum of a {what}") if flags else None
    if least > most or (largest is not None and not least <= largest <= most):
        raise body.error(f"the limits {least}..{largest} of a {what} are not within 0..{most}", start)
    return least, largest


def read_memory_type(body: Reader) -> MemoryType:
    return MemoryType(*_limits(body, "memory", PAGES_MAX))


def read_table_type(body: Reader) -> TableType:
    start = body.position
    element = read_value_type(body)
    if element not in _REFERENCE_TYPES and not element.startswith("(ref"):
        raise body.error(f"a table cannot hold {element}", start)
    return TableType(element, *_limits(body, "table", 0xFFFF_FFFF))


def read_global_type(body: Reader) -> GlobalType:
    value = read_value_type(body)
    start = body.position
    mutable = body.byte("whether a global can change")
    if mutable > 1:
        raise body.error(f"0x{mutable:02x} does not say whether a global can change", start)
    return GlobalType(value, bool(mutable))


def skip_constant(body: Reader) -> None:
    """Skip a constant expression ("Constant Expressions" of validation; codes in "Instructions")."""
    while True:
        start = body.position
        code = body.byte("a constant expression")
        match code:
            case 0x0B:  # end
                return
            case 0x41:  # i32.const
                body.signed(32, "an i32")
            case 0x42:  # i64.const
                body.signed(64, "an i64")
            case 0x43:  # f32.const
                body.take(4, "an f32")
            case 0x44:  # f64.const
                body.take(8, "an f64")
            case 0xFD:  # v128.const
                if body.count("a vector instruction") != 12:
                    raise body.error("a vector instruction that is not constant", start)
                body.take(16, "a v128")
            case 0x23 | 0xD2:  # global.get, ref.func
                body.count("an index")
            case 0xD0:  # ref.null
                body.signed(33, "a heap type")
            case 0x6A | 0x6B | 0x6C | 0x7C | 0x7D | 0x7E:  # add, sub, mul of i32 and i64
                pass
            case _:
                raise body.error(f"instruction 0x{code:02x} in a constant expression is not known here", start)
