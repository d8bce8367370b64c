"""`model.toml`: what Rota has to know about a model beside its graph. PURE.

    task = "tensors"                # or generate, embed, classify: what its tasks carry
    threads = 1                     # intra-op threads; part of the fingerprint, may change bits
    rows_max = 64                   # rows of one batch at most; 1: never batch

    [[shapes]]                      # a set of input shapes, for the warm-up, and for batches if extents are free
    audio = [1, 16000]

    [generate]                      # of a model with task = "generate"
    context = 2048
    tokenizer = "tokenizer.json"

    [text]                          # of a model with task = "embed" or "classify"
    tokenizer = "tokenizer.json"
    buckets = [16, 64, 256]

Unknown keys are errors, so that a misspelt one is not ignored. docs/MODELS.md lists all of them with their defaults.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

from rota.common.errors import CodeError
from rota.common.limits import TENSOR_RANK_MAX
from rota.common.shown import shown

FILE_NAME: Final = "model.toml"
TASKS: Final = ("tensors", "generate", "embed", "classify")
GRAPH_LEVELS: Final = ("none", "basic", "extended", "layout", "all")
POOLINGS: Final = ("mean", "cls", "none")
ACTIVATIONS: Final = ("softmax", "sigmoid", "none")
THREADS_MAX: Final = 256
ROWS_MAX: Final = 64  # the largest batch that a certificate covers
SHAPE_SETS_MAX: Final = 32  # each costs the probes of a certificate
CONTEXT_MAX: Final = 1 << 20
SLOTS_MAX: Final = 64
STOP_TOKENS_MAX: Final = 64
LOGPROBS_MAX: Final = 20
PREFIX_CACHE_MB_MAX: Final = 1 << 20
LABELS_MAX: Final = 100_000
BUCKETS_DEFAULT: Final = (16, 32, 64, 128, 256)

Task = Literal["tensors", "generate", "embed", "classify"]
Pooling = Literal["mean", "cls", "none"]
Activation = Literal["softmax", "sigmoid", "none"]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class GenerateSettings:
    """How a model generates text: `context` cells in each of `slots` slots. `template` "": it has no chat template."""

    context: int
    tokenizer: str
    template: str = ""
    slots: int = 8
    stop_tokens: tuple[int, ...] = ()
    max_tokens: int = 256  # of a request that does not say
    logprobs_max: int = LOGPROBS_MAX
    prefix_cache_mb: int = 256


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How a model reads texts. Each is padded to the smallest of `buckets` that holds its tokens.

    `length_max` is the most tokens of one text, at most the largest bucket. `labels` are names, or the name of a file
    that holds a JSON list of them.
    """

    tokenizer: str
    buckets: tuple[int, ...] = BUCKETS_DEFAULT
    length_max: int = BUCKETS_DEFAULT[-1]
    pooling: Pooling = "none"
    normalize: bool = False
    labels: tuple[str, ...] | str = ()
    activation: Activation = "none"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The settings of one model. `threads` None: what the worker was started with. `rows_max` None: by its size.

    `generate` is given exactly for the task "generate", `text` exactly for "embed" and "classify". `ranges` are the
    lowest and the highest value of an input that the probes make up.
    """

    task: Task = "tensors"
    threads: int | None = None
    graph_level: str = "all"
    outputs: tuple[str, ...] = ()
    allow_cpu_nodes: bool = False
    rows_max: int | None = None
    shapes: tuple[Shapes, ...] = ()
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    generate: GenerateSettings | None = None
    text: TextSettings | None = None

    def shape_sets(self, inputs: Sequence[str]) -> tuple[Shapes, ...]:
        """Return the sets of input shapes that this model is probed with, the first for the warm-up; may be empty.

        Those of a text model follow from its buckets: every one of `inputs` is [1, bucket].
        """
        if self.text is None:
            return self.shapes
        return tuple(dict.fromkeys(inputs, (1, bucket)) for bucket in self.text.buckets)

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the files of the model that the settings name, each with its key."""
        if self.generate is not None:
            yield "generate.tokenizer", self.generate.tokenizer
            if self.generate.template:
                yield "generate.template", self.generate.template
        if self.text is not None:
            yield "text.tokenizer", self.text.tokenizer
            if isinstance(self.text.labels, str):
                yield "text.labels", self.text.labels


class _Rule(NamedTuple):
    check: Callable[[Any], bool]
    meaning: str


def parse_settings(text: str, where: str) -> ModelSettings:
    """Return the settings in `text`, the content of the file `where`.

    Raises `CodeError` naming the file, the key and its allowed values.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # plain ValueError too: int() refuses very long numbers
        raise CodeError(f"{where} is no TOML: {str(error)[:200]}") from None
    values = _checked(table, _RULES, "", where)
    task = values.get("task", "tensors")
    wanted = _SECTIONS.get(task)
    for section in ("generate", "text"):
        if section in values and section != wanted:
            raise CodeError(f"{where}: [{section}] does not belong to a model with task = {task!r}")
    if wanted is None:
        return ModelSettings(**values)
    if wanted not in values:
        raise CodeError(f"{where}: a model with task = {task!r} needs a table [{wanted}]")
    if "shapes" in values:
        raise CodeError(f"{where}: [[shapes]] of a model with task = {task!r} follow from [{wanted}]; leave them out")
    section = table[wanted]
    values[wanted] = _generate(section, where) if wanted == "generate" else _text(section, task, where)
    return ModelSettings(**values)


def _generate(section: Mapping[str, Any], where: str) -> GenerateSettings:
    given = _checked(section, _GENERATE_RULES, "generate.", where)
    _need(given, ("context", "tokenizer"), "generate", where)
    made = GenerateSettings(**given)
    if made.max_tokens >= made.context:
        if "max_tokens" in given:
            raise CodeError(
                f"{where}: generate.max_tokens must be less than generate.context, {made.context}, which holds the "
                f"prompt too; got {made.max_tokens}"
            )
        made = GenerateSettings(**given, max_tokens=made.context - 1)
    return made


def _text(section: Mapping[str, Any], task: str, where: str) -> TextSettings:
    given = _checked(section, _TEXT_RULES, "text.", where)
    _need(given, ("tokenizer",), "text", where)
    other = ("labels", "activation") if task == "embed" else ("pooling", "normalize")
    for key in other:
        if key in given:
            raise CodeError(f"{where}: text.{key} does not belong to a model with task = {task!r}")
    if task == "classify":
        _need(given, ("labels",), "text", where)
    defaults: dict[str, Any] = {"pooling": "mean", "normalize": True} if task == "embed" else {"activation": "softmax"}
    largest = given.get("buckets", BUCKETS_DEFAULT)[-1]
    made = TextSettings(**{**defaults, "length_max": largest, **given})
    if made.length_max > largest:
        raise CodeError(
            f"{where}: text.length_max must be at most the largest of text.buckets, {largest}, got {made.length_max}"
        )
    return made


def _checked(table: Mapping[str, Any], rules: Mapping[str, _Rule], prefix: str, where: str) -> dict[str, Any]:
    """Return the values of a table, its lists as tuples. Raises `CodeError` for an unknown key or a wrong value."""
    for key, value in table.items():
        rule = rules.get(key)
        if rule is None:
            at = f" in [{prefix[:-1]}]" if prefix else ""
            raise CodeError(f"{where}: unknown key {shown(key)}{at}; known: {', '.join(rules)}")
        if not rule.check(value):
            raise CodeError(f"{where}: {prefix}{key} must be {rule.meaning}, got {shown(value)}")
    return {key: _frozen(value) for key, value in table.items()}


def _need(given: Mapping[str, Any], keys: Sequence[str], section: str, where: str) -> None:
    for key in keys:
        if key not in given:
            raise CodeError(f"{where}: [{section}] needs {key}")


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple([_frozen(one) for one in value])
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    return value


def _whole(low: int, high: int) -> _Rule:
    return _Rule(lambda value: _is_whole(value, low, high), f"a whole number from {low} to {high}")


def _one_of(*choices: str) -> _Rule:
    return _Rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name for name in value)


def _is_shape_sets(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= SHAPE_SETS_MAX and all(_is_shapes(one) for one in value)


def _is_shapes(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(_is_shape(shape) for shape in value.values())


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= TENSOR_RANK_MAX and all(_is_whole(n, 0, 1 << 62) for n in value)


def _is_ranges(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_range(bounds) for bounds in value.values())


def _is_range(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or any(type(one) not in (int, float) for one in value):
        return False
    low, high = value
    return bool(-(2.0**63) <= low <= high <= 2.0**63)  # no NaN, no infinity


def _is_file(value: Any) -> bool:
    """Return whether a value can name a file of the model's folder."""
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable() or "\\" in value:
        return False
    return all(part and not part.startswith(".") for part in value.split("/"))


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= STOP_TOKENS_MAX and all(_is_whole(n, 0, 1 << 31) for n in value)


def _is_buckets(value: Any) -> bool:
    if not isinstance(value, list) or not 0 < len(value) <= SHAPE_SETS_MAX:
        return False
    is_whole = all(_is_whole(n, 1, CONTEXT_MAX) for n in value)
    return is_whole and all(low < high for low, high in pairwise(value))


def _is_labels(value: Any) -> bool:
    return _is_file(value) or (_is_names(value) and len(value) <= LABELS_MAX)


_TRUTH: Final = _Rule(lambda value: isinstance(value, bool), "true or false")
_FILE: Final = _Rule(_is_file, "the name of a file in the model's folder")
_TABLE: Final = _Rule(lambda value: isinstance(value, dict), "a table")

_SECTIONS: Final = {"generate": "generate", "embed": "text", "classify": "text"}
_RULES: Final = {
    "task": _one_of(*TASKS),
    "threads": _whole(1, THREADS_MAX),
    "graph_level": _one_of(*GRAPH_LEVELS),
    "outputs": _Rule(_is_names, "a list of output names"),
    "allow_cpu_nodes": _TRUTH,
    "rows_max": _whole(1, ROWS_MAX),
    "shapes": _Rule(_is_shape_sets, f"1 to {SHAPE_SETS_MAX} tables [[shapes]] of input name = [extent, ...]"),
    "ranges": _Rule(_is_ranges, "a table of input name = [lowest, highest]"),
    "generate": _TABLE,
    "text": _TABLE,
}
_GENERATE_RULES: Final = {
    "context": _whole(4, CONTEXT_MAX),
    "slots": _whole(1, SLOTS_MAX),
    "tokenizer": _FILE,
    "template": _FILE,
    "stop_tokens": _Rule(_is_token_list, f"a list of up to {STOP_TOKENS_MAX} token numbers"),
    "max_tokens": _whole(1, CONTEXT_MAX),
    "logprobs_max": _whole(0, LOGPROBS_MAX),
    "prefix_cache_mb": _whole(0, PREFIX_CACHE_MB_MAX),
}
_TEXT_RULES: Final = {
    "tokenizer": _FILE,
    "buckets": _Rule(_is_buckets, f"1 to {SHAPE_SETS_MAX} growing numbers of tokens"),
    "length_max": _whole(1, CONTEXT_MAX),
    "pooling": _one_of(*POOLINGS),
    "normalize": _TRUTH,
    "labels": _Rule(_is_labels, "a list of names, or the name of a JSON file in the model's folder"),
    "activation": _one_of(*ACTIVATIONS),
}
