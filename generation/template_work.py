"""A sandbox for chat templates that counts what they do, and refuses one that does too much.

A template can make any amount of text or work out of little: by a product, a width, loops in loops. So everything
that makes something costs as many units as it has characters, or eight for each item of a list, before it is made where
that can be seen; each turn of a loop and each call costs a few. The count depends on the template and its values only,
so the same request is refused everywhere. What one unit of work may take in time is bounded, except for a few
operations of Python that are slow on long texts; the task's timeout is for those.

Nothing is evaluated when a template is compiled: constants would be made outside of any count.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import jinja2
import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.visitor import NodeTransformer

from rota.common.errors import BadPayload

WORK_MAX: Final = 64 << 20
_STEP: Final = 128  # of a turn of a loop, or a call
_ITEM: Final = 8
_WORK: Final = " work"  # no name of a template has a space
_SPEND: Final = " spend"
_CONCAT: Final = " concat"
_PART: Final = " part"
_NUMBER: Final = re.compile(r"\d+")
_NESTED: Final = re.compile(r"\{[^{}]*\{")

# Filters that make text of a value, however often its parts occur in it.
_OF_TEXT: Final = (
    "capitalize", "center", "e", "escape", "forceescape", "format", "indent", "lower", "pprint", "replace", "safe",
    "string", "striptags", "title", "trim", "truncate", "upper", "urlencode", "wordcount", "wordwrap", "xmlattr",
)  # fmt: skip


class TemplateWork:
    """What one rendering may still do."""

    def __init__(self) -> None:
        self._left = WORK_MAX

    def spend(self, units: int) -> None:
        """Count work. Raises `BadPayload` if it is too much."""
        self._left -= max(0, units)
        if self._left < 0:
            raise BadPayload("the model's chat template needs too much memory or work for this")

    def spend_text(self, value: Any) -> None:
        """Count what the text of a value has."""
        self.spend(_ITEM)
        if isinstance(value, str | bytes):
            self.spend(len(value))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.spend_text(key)
                self.spend_text(item)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in value:
                self.spend_text(item)

    def made(self, value: Any) -> Any:
        """Count a value that was made, or each item of one that is made step by step; return it."""
        if isinstance(value, str | bytes):
            self.spend(len(value))
        elif isinstance(value, list | tuple | dict | set):
            self.spend(_ITEM * len(value))
        elif type(value) is int:
            self.spend(value.bit_length() // 8)
        elif isinstance(value, Iterator):
            return self._counted(value)
        return value

    def _counted(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self.spend(_STEP)
            yield item


class CountingEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """The immutable sandbox, with counts. Render with `counted(values)`."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, finalize: Callable[[object], object]) -> None:
        """`finalize` checks what `{{ }}` shows."""

        @jinja2.pass_context
        def shown(context: Context, value: object) -> object:
            value = finalize(value)
            context[_WORK].spend_text(value)
            return value

        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols], finalize=shown, optimized=False
        )
        del self.filters["random"], self.filters["urlize"], self.globals["lipsum"]
        self.filters["join"] = _join
        for name, of_jinja in list(self.filters.items()):
            self.filters[name] = counting(name, of_jinja)
        self.filters |= {_SPEND: _spend, _CONCAT: _concat, _PART: _part}

    def counted(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of a rendering, with a count of its own."""
        return {**values, _WORK: TemplateWork()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        _Counting(self).visit(tree)
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Do an operation that may make much."""
        work: TemplateWork = context[_WORK]
        _spend_operation(work, operator, left, right)
        return work.made(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a function, method or macro."""
        work: TemplateWork = __context[_WORK]
        work.spend(_STEP)
        args = _spend_call(work, __obj, args, kwargs)
        return work.made(super().call(__context, __obj, *args, **kwargs))


# --- the tree of a template -----------------------------------------------------------------------


class _Counting(NodeTransformer):
    """Puts counts into the bodies of loops and macros, and into what Jinja does without asking its environment."""

    def __init__(self, environment: jinja2.Environment) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.For:
        self._count_body(node)
        if node.test is not None:
            node.test = nodes.And(self._filter(nodes.Const(True), _SPEND, _STEP), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:
        self._count_body(node)
        return node

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.CallBlock:
        self._count_body(node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return self._filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        parts = [part or nodes.Const(None) for part in (node.arg.start, node.arg.stop, node.arg.step)]
        return self._filter(node.node, _PART, *parts)

    def _count_body(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> None:
        self.generic_visit(node)
        units = _STEP + sum([len(data.data) for part in node.body for data in _data_of(part)])
        node.body.insert(0, nodes.Output([self._filter(nodes.Const(""), _SPEND, units)], lineno=node.lineno))

    def _filter(self, node: nodes.Expr, name: str, *arguments: nodes.Expr | int) -> nodes.Filter:
        args = [one if isinstance(one, nodes.Expr) else nodes.Const(one) for one in arguments]
        made = nodes.Filter(node, name, args, [], None, None)
        made.set_environment(self._environment)
        return made


def _data_of(node: nodes.Node) -> Iterator[nodes.TemplateData]:
    if isinstance(node, nodes.TemplateData):
        yield node
    yield from node.find_all(nodes.TemplateData)


@jinja2.pass_context
def _spend(context: Context, value: Any, units: int) -> Any:
    context[_WORK].spend(units)
    return value


@jinja2.pass_context
def _concat(context: Context, values: list[Any]) -> str:
    context[_WORK].spend_text(values)
    return "".join(map(str, values))


@jinja2.pass_context
def _part(context: Context, value: Any, start: Any, stop: Any, step: Any) -> Any:
    return context[_WORK].made(value[start:stop:step])


# --- what filters, operators and methods make -----------------------------------------------------


def counting(name: str, of_jinja: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that counts what it makes."""
    wants = str(getattr(of_jinja, "jinja_pass_arg", ""))

    @jinja2.pass_context
    def filtered(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        work: TemplateWork = context[_WORK]
        _spend_filter(work, name, value, args, kwargs)
        if wants.endswith("eval_context"):
            return work.made(of_jinja(context.eval_ctx, value, *args, **kwargs))
        if wants.endswith("environment"):
            return work.made(of_jinja(context.environment, value, *args, **kwargs))
        if wants.endswith("context"):
            return work.made(of_jinja(context, value, *args, **kwargs))
        return work.made(of_jinja(value, *args, **kwargs))

    return filtered


@jinja2.pass_context
def _join(context: Context, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = map(jinja2.filters.make_attrgetter(context.environment, attribute), value)
    items = list(context[_WORK].made(iter(value)))
    _spend_joined(context[_WORK], str(d), items)
    return str(d).join(map(str, items))


def _spend_joined(work: TemplateWork, between: str, items: list[Any]) -> None:
    work.spend_text(items)
    work.spend(len(between) * len(items))


def _spend_filter(work: TemplateWork, name: str, value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if name in _OF_TEXT or name == "tojson":
        work.spend_text(value)
    given = [*args, *kwargs.values()]
    if name in ("center", "batch", "slice"):
        work.spend(_ITEM * _largest(given))
    elif name in ("indent", "wordwrap", "tojson"):
        lines = 1 + (str(value).count("\n") if name == "indent" else _length(value))
        work.spend(lines * (_largest(given) if name != "wordwrap" else _longest(given)))
    elif name == "replace":
        _spend_replaced(work, str(value), args, kwargs)
    elif name == "format":
        _spend_format(work, str(value), given)


def _spend_operation(work: TemplateWork, operator: str, left: Any, right: Any) -> None:
    if operator == "+":
        work.spend(_units(left) + _units(right))
    elif operator == "%" and isinstance(left, str | bytes):
        _spend_format(work, left if isinstance(left, str) else left.decode("latin-1"), [right])
    elif operator == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, int):
                work.spend(_units(other) * int(one) if _units(other) else one.bit_length() // 8)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        work.spend(left.bit_length() * right // 8)


def _spend_call(work: TemplateWork, called: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Count what a method of Python's own types will make; return its arguments."""
    method = getattr(called, "__wrapped__", called)  # the sandbox wraps str.format
    owner, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    given = [*args, *kwargs.values()]
    if isinstance(owner, int) and name == "to_bytes":
        work.spend(_largest(given))
    if not isinstance(owner, str | bytes):
        return args
    if name in ("ljust", "rjust", "center", "zfill"):
        work.spend(_largest(given))
    elif name == "expandtabs":
        tab: Any = "\t" if isinstance(owner, str) else b"\t"
        work.spend(owner.count(tab) * max(8, _largest(given)))
    elif name == "replace":
        _spend_replaced(work, owner, args, kwargs)
    elif name == "translate":
        tables = [table for table in given if isinstance(table, Mapping)]
        work.spend(len(owner) * max([_longest(table.values()) for table in tables], default=1))
    elif name in ("format", "format_map"):
        _spend_format(work, str(owner), given)
    elif name == "join" and args:
        items = list(work.made(iter(args[0])))
        _spend_joined(work, str(owner), items)
        return (items, *args[1:])
    return args


def _spend_replaced(work: TemplateWork, text: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    given = (*args, *kwargs.values())
    if given and isinstance(given[0], type(text)):
        work.spend(len(text) + text.count(given[0]) * _longest(given[1:]))


def _spend_format(work: TemplateWork, text: str, given: list[Any]) -> None:
    """Count the widths in a format, and all values as often as it has places."""
    work.spend(len(text) + sum([int(digits) for digits in _NUMBER.findall(text)]))
    for _ in range(max(1, text.count("{") + text.count("%"))):
        work.spend_text(given)
    if "*" in text or _NESTED.search(text):
        numbers = [*given, *[item for one in given if isinstance(one, tuple | list) for item in one]]
        work.spend(sum([abs(number) for number in numbers if isinstance(number, int)]))


def _units(value: Any) -> int:
    if isinstance(value, str | bytes):
        return len(value)
    return _ITEM * len(value) if isinstance(value, list | tuple) else 0


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else len(str(value))


def _largest(values: Iterable[Any]) -> int:
    """Return the largest number, or length of a text, among arguments."""
    return max([abs(one) if isinstance(one, int) else _units(one) for one in values], default=0)


def _longest(values: Iterable[Any]) -> int:
    return max([_units(one) for one in values], default=0) or 1
