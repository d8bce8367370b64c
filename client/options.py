"""The named arguments of the clients' methods, checked once and passed on as one value. PURE.

Each kind has two types: a TypedDict for the caller, so that type checkers know the names, and a dataclass with the
defaults for the operations. A test keeps the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypedDict

from rota.common import limits
from rota.common.arguments import check_name, check_options, flag, seconds, whole
from rota.common.errors import BadPayload, CodeError, ConfigError, LocalError
from rota.common.messages import LaneSettings
from rota.common.shown import shown
from rota.common.text_calls import ChatMessage, ChatTool, GenerateCall, OutputRule
from rota.common.work import AGENT, ASK, CODE_KINDS, MODEL, TELL, Limits

MAP_BATCH_TASKS: Final = 256
MAP_IN_FLIGHT_TASKS: Final = 4_096

Progress = Callable[[int, int], None]


class _Options:
    """Base of all kinds. Subclasses are frozen dataclasses."""

    @classmethod
    def of(cls, given: Mapping[str, Any], names: type, **settled: Any) -> Self:
        """Return the options given by a caller. `names` is the TypedDict of the allowed ones, `settled` are those that
        the method sets itself. Raises a `LocalError` for an unknown name or a wrong value.
        """
        check_options(given, names.__annotations__)
        return cls(**settled, **given)


class RetryNames(TypedDict, total=False):
    """The named arguments of `retry`; see `SubmitOptions`."""

    lane: str
    wait: bool
    number: int | None
    timeout_s: float | None


class RunsNames(RetryNames, total=False):
    """The named arguments of `submit_runs`; see `SubmitOptions`."""

    now_ms: int | None
    block: bool


class SubmitNames(RunsNames, total=False):
    """The named arguments of `submit` and `submit_many`; see `SubmitOptions`."""

    priority: int
    sent: Callable[[int], None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitOptions(_Options):
    """How tasks are submitted.

    `wait`: have the results sent. `number`: of the input, to repeat it safely. `now_ms`: the time that agents see.
    `block`: while the lane is full, wait and retry instead of raising `Busy`. `timeout_s`: for the answer; None: the
    client's. `sent` is called with the number of tasks accepted so far.
    """

    lane: str = "main"
    priority: int = 0
    wait: bool = True
    number: int | None = None
    now_ms: int | None = None
    block: bool = False
    timeout_s: float | None = None
    sent: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        check_name(self.lane, "a lane")
        whole("priority", self.priority, limits.PRIORITY_MIN, limits.PRIORITY_MAX, BadPayload)
        flag("wait", self.wait)
        flag("block", self.block)
        if self.now_ms is not None:
            whole("now_ms", self.now_ms, 0, limits.NOW_MS_MAX)
        _check_request(self.number, self.timeout_s)
        _check_callable("sent", self.sent)

    @property
    def kind(self) -> str:
        """The kind of the tasks' messages."""
        return TELL

    @property
    def deadline_ms(self) -> int:
        """How long after they are accepted their answers must be there; 0: they have no deadline."""
        return 0


class AskNames(SubmitNames, total=False):
    """The named arguments of `ask` and `ask_many`; see `AskOptions`."""

    deadline_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions(SubmitOptions):
    """How tasks are submitted whose answers may come later than their outcome.

    `deadline_s`: without an answer so long after it was accepted, the ask fails with `expired`; None: it has no end.
    """

    deadline_s: float | None = None

    def __post_init__(self) -> None:
        SubmitOptions.__post_init__(self)  # a dataclass with slots is another class than `super()` would find
        if self.deadline_s is not None:
            longest_s = limits.DELAY_MS_MAX / 1_000
            if not 0.001 <= seconds("deadline_s", self.deadline_s) <= longest_s:
                raise ConfigError(
                    f"deadline_s={shown(self.deadline_s)}: give a time from 0.001 to {longest_s:.0f} seconds, "
                    "or None for an ask without a deadline"
                )

    @property
    def kind(self) -> str:
        return ASK

    @property
    def deadline_ms(self) -> int:
        return 0 if self.deadline_s is None else round(1_000 * self.deadline_s)


class TextNames(TypedDict, total=False):
    """The named arguments of `embed` and `classify`; see `SubmitOptions`. `timeout_s` bounds all of it."""

    lane: str
    priority: int
    number: int | None
    now_ms: int | None
    block: bool
    timeout_s: float | None


class ChatNames(TextNames, total=False):
    """The named arguments of a chat and of its `say`: how the text is made, and how the task is submitted.

    None: not given. docs/PROTOCOL.md says what each of these does.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int | None
    stop: Sequence[str] | None
    stop_tokens: Sequence[int] | None
    logprobs: int | None
    output: OutputRule | Mapping[str, Any] | None
    tools: Sequence[ChatTool | Mapping[str, Any]] | None
    tool_choice: str | None
    template: Mapping[str, Any] | None


class GenerateNames(ChatNames, total=False):
    """The named arguments of `generate`, beside the prompt."""

    tokens: Sequence[int] | None
    messages: Sequence[ChatMessage | Mapping[str, Any]] | None
    conversation: bytes | str | None


def generate_options(given: Mapping[str, Any]) -> tuple[dict[str, Any], SubmitOptions]:
    """Return the fields of the call and the options of its submit. Raises a `LocalError` for a wrong name or option."""
    check_options(given, ("prompt", *GenerateNames.__annotations__))
    fields = {name: value for name, value in given.items() if name in GenerateCall._fields}
    return fields, SubmitOptions(**{name: value for name, value in given.items() if name not in fields})


class MapNames(TypedDict, total=False):
    """The named arguments of `map`; see `MapOptions`."""

    lane: str
    priority: int
    ordered: bool
    batch: int
    in_flight: int
    return_failures: bool
    timeout_s: float | None
    progress: Progress | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapOptions(_Options):
    """How `map` works.

    `batch`: tasks per message. `in_flight`: at most so many are outstanding or not yet yielded. `return_failures`:
    yield failures instead of raising. `timeout_s`: for each answer and each next outcome; None: the client's.
    `progress` gets the numbers of tasks done and submitted.
    """

    lane: str = "main"
    priority: int = 0
    ordered: bool = True
    batch: int = MAP_BATCH_TASKS
    in_flight: int = MAP_IN_FLIGHT_TASKS
    return_failures: bool = False
    timeout_s: float | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        check_name(self.lane, "a lane")
        whole("priority", self.priority, limits.PRIORITY_MIN, limits.PRIORITY_MAX, BadPayload)
        flag("ordered", self.ordered)
        flag("return_failures", self.return_failures)
        whole("batch", self.batch, 1, limits.RUN_TASKS_MAX)
        whole("in_flight", self.in_flight, 1)
        _check_request(None, self.timeout_s)
        _check_callable("progress", self.progress)


class ModelNames(TypedDict, total=False):
    """The named arguments of `deploy_model`; see `DeployOptions`."""

    recorded: bool
    code_limits: Limits | None
    lane: str
    check: bool
    number: int | None
    timeout_s: float | None


class DeployNames(ModelNames, total=False):
    """The named arguments of `deploy`; see `DeployOptions`."""

    reuse: bool
    flow: bool | None
    exports: Mapping[str, str] | None
    args: Sequence[str]
    env: Mapping[str, str]
    files: Mapping[str, Any]
    with_: Sequence[Any]
    entry: str
    runtime: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployOptions(_Options):
    """How code is bound to a name.

    `kind` None: found by what the code is. `reuse`: one instance for many tasks. `flow`: each task is a call that may
    wait; None: a source that has a `flow` and no `agent` is one. `exports`: the module's own names by
    role (docs/AGENTS.md). Of a command or a source: `args`, `env`, and `files` by guest path, as bytes or a path of the
    host. Of a source: `with_`: files, folders and wheels beside it, or pairs (guest path, path); `entry`: the main file
    of a folder; `runtime`: by name. `recorded`: accept results of a model that a repetition might not give again.
    `check`: a worker checks the code before the deploy takes effect. `number`, `timeout_s`: as for a submit.
    """

    kind: str | None = None
    reuse: bool = False
    flow: bool | None = None
    exports: Mapping[str, str] | None = None
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    with_: Sequence[Any] = ()
    entry: str = ""
    runtime: str = ""
    recorded: bool = False
    code_limits: Limits | None = None
    lane: str = "main"
    check: bool = True
    number: int | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.kind is not None and (not isinstance(self.kind, str) or self.kind not in CODE_KINDS):
            raise CodeError(f"kind={shown(self.kind)}: code is one of {', '.join(CODE_KINDS)}")
        check_name(self.lane, "a lane")
        check_extras(self)
        flag("reuse", self.reuse)
        if self.flow is not None:
            flag("flow", self.flow)
        if flag("recorded", self.recorded) and self.kind != MODEL:
            raise CodeError(
                f"recorded=True: a result of kind {self.kind or AGENT} is always derived; only models can be recorded"
            )
        flag("check", self.check)
        if self.exports is not None and not isinstance(self.exports, Mapping):
            raise CodeError(
                f"exports={shown(self.exports)}: give a map of roles (`call`, ...) to the module's own names"
            )
        if self.code_limits is not None and not isinstance(self.code_limits, Limits):
            raise CodeError(f"code_limits={shown(self.code_limits)}: give a Limits (from rota.client import Limits)")
        _check_request(self.number, self.timeout_s)


def check_extras(given: Any) -> None:
    """Raise `CodeError` for a wrong type of what a command or a source starts with (see `DeployOptions`)."""
    for name in ("args", "with_"):
        if not isinstance(getattr(given, name), list | tuple):
            raise CodeError(f"{name}={shown(getattr(given, name))}: give a list")
    for name in ("env", "files"):
        if not isinstance(getattr(given, name), Mapping):
            raise CodeError(f"{name}={shown(getattr(given, name))}: give a map")
    for name in ("entry", "runtime"):
        if not isinstance(getattr(given, name), str):
            raise CodeError(f"{name}={shown(getattr(given, name))}: give text")


class LaneNames(TypedDict, total=False):
    """The named arguments of `open_lane`: the fields of `LaneSettings`, and those of `LaneOptions`."""

    policy: str
    window: int
    tasks_max: int
    starvation_passes: int
    seed: bytes | None
    bytes_max: int
    agents_max: int
    paused: bool
    deploys_from: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions(_Options):
    """How a lane is opened. `paused`: nothing is issued until it is released. `deploys_from`: the lane whose current
    bindings it starts with; None: no bindings.
    """

    settings: LaneSettings
    paused: bool = False
    deploys_from: str | None = "main"

    @classmethod
    def named(cls, given: Mapping[str, Any]) -> Self:
        """Return the options given by a caller of `open_lane`."""
        settings = {name: given[name] for name in LaneSettings._fields if name in given}
        rest = {name: value for name, value in given.items() if name not in settings}
        return cls.of(rest, LaneNames, settings=LaneSettings(**settings))

    def __post_init__(self) -> None:
        flag("paused", self.paused)
        if self.deploys_from is not None:
            check_name(self.deploys_from, "a lane")


def _check_request(number: int | None, timeout_s: float | None) -> None:
    if number is not None:
        whole("number", number, 1)
    if timeout_s is not None:
        seconds("timeout_s", timeout_s)


def _check_callable(name: str, value: Any) -> None:
    if value is not None and not callable(value):
        raise LocalError(f"{name}={shown(value)}: give a function, or None")
