"""Makes a command of a settings class: one option per setting, each with its variable, and a named exit code.

`python -m rota.broker` and `rota broker` run the same command object. The body is loaded when the command runs, so that
`rota --help` does not load an engine. What a setting may be is checked by the settings class only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from rota.common.config import Option, ProcessSettings, options_of
from rota.common.service import Exit, run_process

Settings = TypeVar("Settings", bound=ProcessSettings)


def settings_command(
    name: str, settings: type[Settings], load: Callable[[], Callable[[Settings], Exit]], help_text: str
) -> click.Command:
    """Return the command `name`: it builds the settings and runs what `load` returns with them."""

    def run(**values: Any) -> None:
        given = {setting: value for setting, value in values.items() if value is not None}
        sys.exit(run_process(name, values["log_level"], lambda: load()(settings(**given))))

    return click.Command(name, callback=run, params=[*setting_options(settings)], help=help_text)


def setting_options(settings: type[ProcessSettings]) -> list[click.Option]:
    """Return click's options for the settings of a process."""
    return [_option(name, option, default) for name, (option, default) in options_of(settings).items()]


def _option(name: str, option: Option, default: Any) -> click.Option:
    if isinstance(default, bool):
        kind: click.ParamType[Any] = click.BOOL
    elif isinstance(default, int):
        kind = click.INT
    elif option.choices:
        kind = click.Choice([choice for choice in option.choices if choice])
    elif isinstance(default, Path) or default is None:
        kind = click.Path(path_type=Path)
    else:
        kind = click.STRING
    given = {} if default in ("", None) else {"default": default, "show_default": True}
    return click.Option(
        [option.flag, name], type=kind, envvar=option.variable, help=option.help, show_envvar=True, **given
    )
