"""Options that commands share: those to reach the broker, `--json`, and others.

`@broker_options` gives a command a `connection`, which opens a client. It loads nothing but the blocking client.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from rota.client.client import Client
    from rota.host.endpoints import RunFolder

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_DIR: Final = ".rota"
_SECONDS_OF: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
CONTACT_SECONDS_MAX: Final = 5.0  # long enough for a person to wait for "no broker answers"


class Connection:
    """How to reach the broker, from the command line."""

    def __init__(self, folder: Path, bind: str | None, timeout_s: float) -> None:
        self.folder = folder
        self.bind = bind
        self.timeout_s = timeout_s

    def open(self, producer: str | None = None) -> Client:
        """Return a client; use it in a `with` block."""
        from rota.client.client import Client

        contact_s = min(CONTACT_SECONDS_MAX, self.timeout_s)
        # The tensors are in the run folder even if --bind gives another address.
        tensors = self.run_folder().tensors if self.bind else None
        return Client(self.bind or self.folder, producer, self.timeout_s, contact_s=contact_s, tensors=tensors)

    def run_folder(self) -> RunFolder:
        """Return the run folder and its paths."""
        from rota.host.endpoints import RunFolder

        return RunFolder(self.folder)


class RunPath(click.Path):
    """A path to a run, or what stands beside one. `missing` says what to give if it was left out."""

    def __init__(self, missing: str, path_type: type[Any] = Path) -> None:
        super().__init__(path_type=path_type)
        self._missing = missing

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self._missing


def run_argument(command: Command) -> Command:
    """Add RUN, the run to read."""
    missing = "give a run folder, a run file or a file made by `rota export`, or set ROTA_DIR"
    return click.argument("run", type=RunPath(missing), envvar="ROTA_DIR")(command)


class Whole(click.IntRange):
    """A whole number within bounds."""

    name = "whole number"


class Number(click.FloatRange):
    """A number within bounds, with a fraction or without."""

    name = "number"


class Duration(Number):
    """A time: 90, 90s, 500ms, 15m, 2h or 7d; in seconds without a unit, and as a value."""

    name = "time, such as 90, 90s, 500ms, 15m, 2h or 7d"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        given = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?(ms|s|m|h|d)", value) if isinstance(value, str) else None
        if given is not None:
            value = float(given[1]) * _SECONDS_OF[given[2]]
        return super().convert(value, param, ctx)


class ByteCount(Whole):
    """A number of bytes within bounds: 65536, 64KiB, 16MiB, 2GiB."""

    name = "number of bytes, such as 65536, 64KiB, 16MiB or 2GiB"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        sized = re.fullmatch(r"(\d{1,19}) ?([KMGT])iB", value) if isinstance(value, str) else None
        if sized is not None:
            value = int(sized[1]) << (10 * (" KMGT".index(sized[2])))
        return super().convert(value, param, ctx)


def option(*names: str, **settings: Any) -> Callable[[Command], Command]:
    """Add an option whose help names its variable and its default."""
    settings.setdefault("show_default", settings.get("default") not in (None, False))
    return click.option(*names, cls=_NamedOption, show_envvar=True, **settings)


class _NamedOption(click.Option):
    """An option whose variable has its long name; click would take the name of the parameter."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        with self._variable(ctx):
            return super().resolve_envvar_value(ctx)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        with self._variable(ctx):
            return super().get_help_record(ctx)

    @contextlib.contextmanager
    def _variable(self, ctx: click.Context) -> Iterator[None]:
        given = self.envvar
        if given is None and ctx.auto_envvar_prefix:
            long = next(name for name in self.opts if name.startswith("--"))
            self.envvar = f"{ctx.auto_envvar_prefix}_{long[2:].replace('-', '_').upper()}"
        try:
            yield
        finally:
            self.envvar = given


def dir_option(command: Command) -> Command:
    """Add --dir."""
    return option(
        "--dir",
        "folder",
        type=click.Path(file_okay=False, path_type=Path),
        default=DEFAULT_DIR,
        envvar="ROTA_DIR",
        help="The run folder of the broker.",
    )(command)


def broker_options(command: Command) -> Command:
    """Add --dir, --bind and --timeout, and pass them on as one `connection`."""

    def with_connection(folder: Path, bind: str | None, timeout_s: float, **values: Any) -> Any:
        return command(connection=Connection(folder, bind, timeout_s), **values)

    functools.update_wrapper(with_connection, command)
    timeout = option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0.001),
        default=30.0,
        envvar="ROTA_TIMEOUT",
        metavar="SECONDS",
        help="How long to wait for the broker's answer.",
    )
    bind = option(
        "--bind",
        envvar="ROTA_BIND",
        metavar="ADDRESS",
        help="tcp://127.0.0.1:PORT, if the broker was started with it.",
    )
    made: Any = dir_option(bind(timeout(with_connection)))
    return made  # type: ignore[no-any-return]


def json_option(command: Command) -> Command:
    """Add --json."""
    return option("--json", is_flag=True, help="Print JSON, for programs.")(command)


def lane_option(command: Command) -> Command:
    """Add --lane."""
    return option("--lane", default="main", help="The lane.")(command)


def limit_option(command: Command) -> Command:
    """Add --limit."""
    return option(
        "--limit",
        type=click.IntRange(1, 10_000),
        default=100,
        help="How many lines at most.",
    )(command)


def progress_option(command: Command) -> Command:
    """Add --progress."""
    return option(
        "--progress/--no-progress",
        default=None,
        help="Show progress on stderr; without the option, if that is a terminal.",
    )(command)
