"""Projects of agents and flows: a folder with `rota.toml`, its sources, and for compiled languages a copy of the SDK.

`new_project` makes one from a template of a language: `template`, or `flow_template`. The SDK is copied into it
(`sdk/`), so that it builds where Rota is not installed, and editors find it; `update_sdk` brings the copy up to date.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from rota.common.code_kinds import FLOW_KINDS, KEPT_KINDS, KINDS
from rota.common.errors import ConfigError
from rota.common.targets import is_name
from rota.sdk.files import folder as sdk_folder
from rota.sdk.files import languages

MANIFEST: Final = "rota.toml"
BUILD: Final = "build"  # folder of what is built
SDK: Final = "sdk"  # folder of the copy
WIT: Final = Path(__file__).resolve().parent / "wit" / "agent.wit"  # the world of components

# Language: main file of a project, and the language whose SDK it has a copy of ("": none; it comes with a deploy).
_LANGUAGES: Final = {
    "assemblyscript": ("agent.ts", "assemblyscript"),
    "c": ("agent.c", "c"),
    "cpp": ("agent.cpp", "c"),
    "go": ("agent.go", "go"),
    "javascript": ("agent.js", "javascript"),
    "python": ("agent.py", ""),
    "rust": ("src/lib.rs", "rust"),
    "typescript": ("agent.ts", "javascript"),
    "zig": ("agent.zig", "zig"),
}
_TYPES: Final = "rota.d.ts"  # for editors: all that a project has of the SDK of JavaScript
_COMPILED: Final = Path(__file__).parent / "compiled"
_TEMPLATE, _FLOW_TEMPLATE = "template", "flow_template"
_TESTS: Final = {_TEMPLATE: "tests", _FLOW_TEMPLATE: "flow_tests"}
_NOT_COPIED: Final = (_TEMPLATE, _FLOW_TEMPLATE, "target", "node_modules", "__pycache__")
_KEYS: Final = {"agent": ("name", "language", "source", "kind", "flow", "with"), "build": ("command",)}
_PROJECT_NAME: Final = re.compile("[A-Za-z][A-Za-z0-9_-]*")  # so that a crate and a Go module can have it, too
_PLACEHOLDER: Final = re.compile(r"\bNAME\b")


class Project(NamedTuple):
    """An agent's folder, as its `rota.toml` describes it."""

    folder: Path
    name: str
    language: str
    source: str  # the main file, relative to the folder
    kind: str | None  # as which it is deployed; None: by what it is
    flow: bool | None  # deployed as a flow; None: by what it is
    beside: tuple[str, ...] | None  # files and folders that go with a source; None: all of the folder
    command: tuple[str, ...]  # replaces that of the toolchain; `{output}` stands for the file to write

    @property
    def output(self) -> Path:
        """What the build writes, for languages that are compiled."""
        return self.folder / BUILD / f"{self.name}.wasm"


def read_project(folder: Path) -> Project:
    """Return the project in a folder. Raises `ConfigError` that names the key."""
    folder = folder.absolute()  # since compilers run in it
    path = folder / MANIFEST
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} is no project of an agent, since it has no {MANIFEST}: "
            "`rota new agent NAME --lang LANGUAGE` makes one"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    for table, keys in tables.items():
        unknown = [key for key in keys if key not in _KEYS.get(table, ())] if isinstance(keys, dict) else [table]
        if unknown:
            known = ", ".join(f"{name}.{key}" for name, ours in _KEYS.items() for key in ours)
            raise ConfigError(f"{path}: {table}.{unknown[0]} is unknown: use {known}")
    agent: dict[str, Any] = tables.get("agent", {})
    language = agent.get("language")
    if not isinstance(language, str) or language not in _LANGUAGES:
        raise ConfigError(f"{path}: agent.language is {language!r}, not one of {', '.join(_LANGUAGES)}")
    command = _words(tables.get("build", {}).get("command", []), f"{path}: build.command")
    beside = _words(agent["with"], f"{path}: agent.with") if "with" in agent else None
    kind, source = agent.get("kind"), agent.get("source", _LANGUAGES[language][0])
    if kind is not None and kind not in KEPT_KINDS:
        raise ConfigError(f"{path}: agent.kind is {kind!r}, not one of {', '.join(KEPT_KINDS)}")
    flow = agent.get("flow")
    if flow is not None and (not isinstance(flow, bool) or (flow and kind is not None and not KINDS[kind].may_flow)):
        raise ConfigError(
            f"{path}: agent.flow is {flow!r}: true or false, and true only for {' and '.join(FLOW_KINDS)}"
        )
    if not isinstance(source, str) or "\0" in source or not (folder / source).is_file():
        raise ConfigError(f"{path}: the main file {source} is not in {folder}: add it, or name another as agent.source")
    missing = [name for name in beside or () if "\0" in name or not (folder / name).exists()]
    if missing:
        raise ConfigError(f"{path}: agent.with names {missing[0]}, which is not in {folder}")
    name = _checked_name(agent.get("name"), str(path))
    return Project(folder, name, language, source, kind, flow, beside, command)


def new_project(name: str, language: str, parent: Path, *, flow: bool = False) -> Project:
    """Make the folder `parent/name` from a template of a language. Raises `ConfigError` if that is not possible."""
    _checked_name(name, "NAME")
    if flow and language not in flow_languages():
        raise ConfigError(f"there is no template of a flow in {language!r}, but in {', '.join(flow_languages())}")
    if language not in _LANGUAGES:
        raise ConfigError(f"there is no SDK for {language!r}: known are {', '.join(languages())}")
    folder = parent / name
    try:
        folder.mkdir(parents=True)
        for place, path in _template(language, _FLOW_TEMPLATE if flow else _TEMPLATE).items():
            target = folder / _PLACEHOLDER.sub(name, place)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_PLACEHOLDER.sub(name, path.read_text(encoding="utf-8")), encoding="utf-8")
        (folder / ".gitignore").write_text("build/\nnode_modules/\ntarget/\n__pycache__/\n", encoding="utf-8")
    except FileExistsError:
        raise ConfigError(f"{folder} is there already: give another name, or remove it") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}") from error
    project = read_project(folder)
    update_sdk(project)
    return project


def flow_languages() -> list[str]:
    """Return the languages that have a template of a flow."""
    return [language for language in languages() if (sdk_folder(language) / _FLOW_TEMPLATE).is_dir()]


def _template(language: str, kind: str) -> dict[str, Path]:
    """Return the files of a new project by their place in it. All compiled languages have one test of a kind."""
    template = sdk_folder(language) / kind
    folders = [template] if _LANGUAGES[language][1] in ("", "javascript") else [template, _COMPILED / _TESTS[kind]]
    return {str(path.relative_to(folder)): path for folder in folders for path in _files(folder)}


def sdk_is_current(project: Project) -> bool:
    """Return whether the project's copy of the SDK is this version's. True for a project without one."""
    copies = {project.folder / place: path for place, path in _copies(project.language).items()}
    if not any(place.exists() for place in copies):
        return True
    return all(place.is_file() and place.read_bytes() == path.read_bytes() for place, path in copies.items())


def update_sdk(project: Project) -> None:
    """Copy the SDK of this version into the project, if its language needs one there."""
    copies = _copies(project.language)
    if any(place.is_relative_to(SDK) for place in copies):
        shutil.rmtree(project.folder / SDK, ignore_errors=True)
    for place, path in copies.items():
        target = project.folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _copies(language: str) -> dict[Path, Path]:
    """Return what a project has of the SDK: places in the project, and the files."""
    copied = _LANGUAGES[language][1]
    if not copied:
        return {}
    folder = sdk_folder(copied)
    if (folder / _TYPES).is_file():
        return {Path(_TYPES): folder / _TYPES}
    return {SDK / path.relative_to(folder): path for path in _files(folder)}


def _words(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"{where} is {value!r}, not an array of texts")
    return tuple(value)


def _checked_name(name: object, where: str) -> str:
    if not isinstance(name, str) or not is_name(name) or not _PROJECT_NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: {name!r} is no name of a project: use letters, digits, - and _, beginning with a letter"
        )
    return name


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of an SDK or a template, in the order of their names, without what tools leave there."""
    for path in sorted(folder.iterdir()):
        if path.name in _NOT_COPIED or path.name.startswith(".") or path.suffix == ".wasm":
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path
