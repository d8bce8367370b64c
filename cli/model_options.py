"""What the commands about models share: the option --models, and the repository that it names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rota.cli.common_options import option
from rota.common.errors import ConfigError

if TYPE_CHECKING:
    from rota.gpu_worker.repository import Repository

_MODELS_HELP = "The model folder; else that of the run folder."


def models_option(command: Any) -> Any:
    return option(
        "--models",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="ROTA_MODELS",
        help=_MODELS_HELP,
    )(command)


def repository_of(folder: Path, models: Path | None, *, make: bool = False) -> Repository:
    """Return the models of a run folder, or of the folder given with --models, which must be there unless `make`.

    Raises `ConfigError`.
    """
    from rota.gpu_worker.repository import Repository
    from rota.host.endpoints import RunFolder

    if models is not None and not make and not models.is_dir():
        raise ConfigError(f"--models {models} is not a folder: name that of a run, or the one given to its workers")
    return Repository(RunFolder(folder).models if models is None else models)
