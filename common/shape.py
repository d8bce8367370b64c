"""Decodes MessagePack arrays as values of one class, checked by the class's annotations. PURE.

A shape is an array of constants (a version, a tag) and exactly the fields of a NamedTuple, in order. msgspec decodes
and checks in one step; `explain` turns its error into the name of the field and its allowed values. Fields of plain
values (`Plain`, `PlainMap`) are checked here.
"""

from __future__ import annotations

import re
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from rota.common import limits
from rota.common.columns import InColumns, new_tuple

_AT: Final = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_STEP: Final = re.compile(r"\[(\d+|\.\.\.)\]")
_UNFIT: Final = "does not fit"
_SCALARS: Final = (NoneType, bool, int, float, str, bytes)

encode: Final = msgspec.msgpack.Encoder().encode


class Shape:
    """Decodes one class from an array that begins with `head`."""

    def __init__(self, cls: Any, *head: int) -> None:
        hints = get_type_hints(cls, include_extras=True)
        columns = {name: column_of(hint) for name, hint in hints.items()}
        self.cls = cls
        self.hints: dict[str, Any] = {name: columns[name] or hint for name, hint in hints.items()}
        self._head = head
        self._columns = [(cls._fields.index(name), column) for name, column in columns.items() if column is not None]
        fields = tuple([self.hints[name] for name in cls._fields])
        array: Any = tuple[(*[Literal[one] for one in head], *fields)]  # type: ignore[misc]
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(array)
        self._plain = [place for place, hint in enumerate(fields) if is_plain(hint)]

    def encode(self, value: Any) -> bytes:
        """Return the array of a value."""
        if not self._columns:
            return encode(self._head + value)
        fields = list(value)
        for place, column in self._columns:
            fields[place] = column.of(fields[place])
        return encode((*self._head, *fields))

    def decode(self, data: bytes) -> Any:
        """Return the value in an array.

        Raises `ValueError` naming the field and its allowed values, `msgspec.DecodeError` if it is not one value.
        """
        try:
            values = self._decoder.decode(data)[len(self._head) :]
        except msgspec.ValidationError as error:
            raise ValueError(self.explain(str(error))) from None
        except RecursionError:
            raise ValueError(f"{self.cls.__name__}: wants at most {limits.VALUE_DEPTH_MAX} levels") from None
        for place in self._plain:
            try:
                check_plain(values[place])
            except ValueError as error:
                raise ValueError(f"{self.cls.__name__}: field {self.cls._fields[place]}: {error}") from None
        return new_tuple(self.cls, values)

    def explain(self, told: str) -> str:
        """Return an error of msgspec in our words: class, field, and its allowed values."""
        found = _AT.match(told)
        assert found is not None
        what, path = found["what"], found["path"]
        steps = [0 if step == "..." else int(step) for step in _STEP.findall(path or "")]
        if not steps:
            numbers = [int(number) - len(self._head) for number in re.findall(r"\d+", what)]
            if len(numbers) == 2:
                return f"{self.cls.__name__} has {numbers[0]} fields, got {max(numbers[1], 0)}"
            return f"{self.cls.__name__}: {what}"
        name = self.cls._fields[steps[0] - len(self._head)]
        field, leaf = _follow(self.hints[name], steps[1:])
        return f"{self.cls.__name__}: field {name}{field}: {_wants(what, leaf)}"


def is_plain(hint: Any) -> bool:
    """Return whether a field holds arbitrary plain values."""
    return any((meta.extra or {}).get("plain") for meta in metas(hint))


def column_of(hint: Any) -> Any:
    """Return the class of columns that a field is encoded as; None if it has none."""
    return next((one.column for one in getattr(hint, "__metadata__", ()) if isinstance(one, InColumns)), None)


def metas(hint: Any) -> list[msgspec.Meta]:
    """Return the bounds of a type, the outermost last."""
    return [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]


def bare(hint: Any) -> Any:
    """Return a type without its bounds."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def check_plain(value: Any) -> None:
    """Raise ValueError unless a value is made of nil, bool, numbers, text, bytes, lists and maps with text keys.

    It goes level by level and bounds the depth, since printing or packing the value later recurses.
    """
    level: list[Any] = [value]
    for _ in range(limits.VALUE_DEPTH_MAX):
        inner: list[Any] = []
        for item in level:
            if type(item) is dict:
                if not all(type(key) is str for key in item):
                    raise ValueError("wants a map with text keys, got another key")
                inner += item.values()
            elif type(item) is list:
                inner += item
            elif type(item) not in _SCALARS:
                raise ValueError("wants a value without extension types")
        level = [item for item in inner if type(item) not in _SCALARS]
        if not level:
            return
    raise ValueError(f"wants at most {limits.VALUE_DEPTH_MAX} levels of lists and maps inside each other")


def _follow(hint: Any, steps: list[int]) -> tuple[str, Any]:
    """Return the path from a type to one of its parts as text, and the type there."""
    path = ""
    for step in steps:
        inner = bare(hint)
        if get_origin(inner) in (Union, UnionType):
            arrays = [one for one in map(bare, get_args(inner)) if _is_array(one)]
            if len(arrays) > 1:
                return path, hint  # only the data says which one it is
            inner = arrays[0] if arrays else inner
        if get_origin(inner) is tuple:
            items = get_args(inner)
            hint = items[0] if items[-1] is Ellipsis else items[step]
            path += f"[{step}]"
        elif hasattr(inner, "_fields") or hasattr(inner, "__struct_fields__"):
            names = getattr(inner, "_fields", None) or inner.__struct_fields__
            hint = get_type_hints(inner, include_extras=True)[names[step]]
            path += f".{names[step]}"
        else:
            return path, hint
    return path, hint


def _is_array(inner: Any) -> bool:
    return get_origin(inner) is tuple or hasattr(inner, "_fields") or hasattr(inner, "__struct_fields__")


def _wants(what: str, hint: Any) -> str:
    """Return the allowed values of a field, and what was given if msgspec says so; `what` itself if it is a rule."""
    if not what.startswith(("Expected", "Invalid enum")):
        return what
    got = what[what.index(", got") :].replace("`", "") if ", got" in what else ""
    return f"wants {words(hint)}{got}"


def words(hint: Any) -> str:
    """Return the allowed values of a type, for a refusal."""
    bounds = metas(hint)
    inner = bare(hint)
    described = [meta.description for meta in bounds if meta.description]
    if described:
        return described[-1]
    if get_origin(inner) in (Union, UnionType):
        return " or ".join([words(one) for one in get_args(inner)])
    low = [meta.ge for meta in bounds if meta.ge is not None]
    high = [meta.le for meta in bounds if meta.le is not None]
    longest = [meta.max_length for meta in bounds if meta.max_length is not None]
    most = f" of at most {longest[0]}" if longest else ""
    if inner is int and low and high:
        return f"an integer {low[0]}..{high[0]}"
    if get_origin(inner) is Literal:
        return f"one of {', '.join(map(str, get_args(inner)))}"
    if inner is dict or get_origin(inner) is dict:
        return f"a map{f'{most} entries' if most else ''} with text keys"
    if get_origin(inner) is tuple and get_args(inner)[-1] is Ellipsis:
        return f"an array{f'{most} elements' if most else ''}"
    if _is_array(inner):
        return f"an array of {len(_parts(inner))} elements"
    plain: dict[Any, str] = {int: "an integer", bool: "true or false", NoneType: "nil", Any: "a value"}
    plain |= {str: f"text{most} characters", bytes: f"bytes{most}"}
    return plain.get(inner, str(inner))


def _parts(inner: Any) -> tuple[Any, ...]:
    named = getattr(inner, "_fields", None) or getattr(inner, "__struct_fields__", None)
    return tuple(named) if named is not None else get_args(inner)
