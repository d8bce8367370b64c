"""Makes a command of a settings class: one option per setting, each with its variable, and a named exit code.

`python -m rota.broker` and `rota broker` run the same command object. Its body is loaded when it runs, so that `rota
--help` does not load an engine. Only the settings class checks values.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from rota.host.config import ProcessSettings, Setting, settings_of
from rota.host.service import Exit, run_process

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
    return [_option(name, setting) for name, setting in settings_of(settings).items()]


def _option(name: str, setting: Setting) -> click.Option:
    option, default = setting.option, setting.default
    given = {} if default in ("", None) else {"default": default, "show_default": True}
    return click.Option(
        [option.flag, name],
        type=_click_type(setting),
        envvar=option.variable,
        show_envvar=True,
        help=option.help,
        **given,
    )


def _click_type(setting: Setting) -> click.ParamType[Any]:
    if setting.option.choices:
        return click.Choice([choice for choice in setting.option.choices if choice])
    kinds = get_args(setting.kind) or (setting.kind,)
    if kinds[0] is Path:
        return click.Path(path_type=Path)
    return {bool: click.BOOL, int: click.INT, str: click.STRING}[kinds[0]]
