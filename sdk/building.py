"""Builds a project of an agent with the toolchain of its language, and says what to deploy."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from rota.common.component_binary import is_component
from rota.common.errors import CodeError
from rota.common.wasm_module import check_imports, inspect_module
from rota.sdk.projects import Project, read_project
from rota.sdk.toolchains import commands_of

BUILD_SECONDS_MAX: Final = 1_800  # the first build of a toolchain may compile its standard library


class Built(NamedTuple):
    """What a deploy takes: a file, or the folder of a source with its main file `entry`; its kind, and whether it is a
    flow (None: by what it is), and what goes with the file of a source.
    """

    name: str
    path: Path
    kind: str | None
    beside: tuple[Path, ...] = ()
    entry: str = ""
    flow: bool | None = None


def build(project: Project, *, debug: bool = False, tell: Callable[[str], None] | None = None) -> Built:
    """Build a project; what the compiler says goes to standard error. `debug`: see `commands_of`. `tell` gets each
    command as a line for a shell.

    Raises `ConfigError` if the toolchain is missing, `CodeError` if the source does not compile, or to a module with
    imports that no deploy would take.
    """
    commands = commands_of(project, debug=debug)
    if not commands:
        if project.beside is None:
            return Built(project.name, project.folder, project.kind, entry=project.source, flow=project.flow)
        beside = tuple([project.folder / name for name in project.beside])
        return Built(project.name, project.folder / project.source, project.kind, beside, flow=project.flow)
    project.output.parent.mkdir(exist_ok=True)
    project.output.unlink(missing_ok=True)
    for command in commands:
        if tell is not None:
            tell(shlex.join(["env", *[f"{key}={text}" for key, text in command.environment.items()], *command.words]))
        _run(project, command.words, {**os.environ, **command.environment})
    if project.language == "rust" and not project.command:
        _take_from_cargo(project)
    if not project.output.is_file():
        raise CodeError(f"{project.name}: the build wrote no {project.output}: build.command has to write {{output}}")
    data = project.output.read_bytes()
    if not is_component(data):
        check_imports(inspect_module(data))
    return Built(project.name, project.output, project.kind, flow=project.flow)


def build_folder(folder: Path, *, debug: bool = False) -> Built:
    """Build the project in a folder, as tests of an agent do. Raises what `read_project` and `build` raise."""
    return build(read_project(folder), debug=debug)


def _run(project: Project, words: tuple[str, ...], environment: dict[str, str]) -> None:
    shown = f"zig {words[3]}" if words[1:3] == ("-m", "ziglang") else Path(words[0]).name
    try:
        done = subprocess.run(
            words, cwd=project.folder, env=environment, stdin=subprocess.DEVNULL, timeout=BUILD_SECONDS_MAX,
            stdout=2, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise CodeError(f"{project.name}: there is no program {words[0]!r}: see build.command in rota.toml") from None
    except subprocess.TimeoutExpired:
        raise CodeError(f"{project.name}: {shown} took longer than {BUILD_SECONDS_MAX} s") from None
    if done.returncode:
        raise CodeError(f"{project.name} does not build: {shown} ended with {done.returncode}; what it said is above")


def _take_from_cargo(project: Project) -> None:
    """Copy the module that cargo has built. Its name is that of the crate, which the author may have changed."""
    found = sorted((project.output.parent / "cargo").glob("wasm32-unknown-unknown/release/*.wasm"))
    if len(found) != 1:
        names = ", ".join([path.name for path in found]) or "none"
        raise CodeError(
            f"{project.name}: cargo has to build one module, and there are: {names}; give the crate the crate-type "
            "cdylib, or remove build/cargo"
        )
    project.output.write_bytes(found[0].read_bytes())
