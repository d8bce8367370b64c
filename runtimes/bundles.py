"""Makes the bundle of a source: the author's files, what goes along, and the files of Rota for its language."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from rota.common.bundle import Bundle, new_bundle
from rota.common.errors import CodeError
from rota.runtimes import javascript_language, python_language
from rota.runtimes.author_files import TOP, Given, check_place, gather
from rota.runtimes.catalog import RUNTIMES, Runtime, runtime_for, runtime_named, runtime_with
from rota.runtimes.languages import Language
from rota.sdk.projects import MANIFEST

_LANGUAGES: Final[Mapping[str, Language]] = {
    "python": python_language.LANGUAGE,
    "javascript": javascript_language.LANGUAGE,
}  # by the name of the driver


class SourceBundle(NamedTuple):
    """A bundle of kind `source`, and the runtime that it names."""

    bundle: Bundle
    runtime: Runtime


def source_bundle(
    path: Path,
    *,
    with_: Iterable[Given] = (),
    entry: str = "",
    runtime: str = "",
    args: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> SourceBundle:
    """Return the bundle of a source file, or of a folder with a main file.

    `with_`: what goes along, beside it. `entry`: the main file of a folder, by its path there; else the one with the
    language's usual name. `runtime`: its name, if the suffix of the main file does not tell. `files`: more, by guest
    path. Raises `CodeError` for files that cannot be used, `ConfigError` for an unknown runtime.
    """
    given = [Given(path, TOP) if path.is_dir() else Given(path), *with_]
    found = gather(given)
    for place, data in (files or {}).items():
        check_place(place, found, place)
        found[place] = data
    chosen, main = _main(path, tuple(found), entry, runtime)
    language = _LANGUAGES[chosen.driver]
    converted: dict[str, bytes] = {}
    for place, data in found.items():
        new_place, new_data = language.convert(place, data)
        if new_place in converted:
            raise CodeError(f"{path}: two files become {new_place}; leave one of them out")
        converted[new_place] = new_data
        main = new_place if place == main else main
    all_files = {**converted, **language.boot_files()}
    return SourceBundle(new_bundle(chosen.digest, entry=main, args=args, env=env, files=all_files), chosen)


def runtime_of_source(path: Path, entry: str = "") -> Runtime:
    """Return the runtime that a source file or folder gets. Raises as `source_bundle`."""
    names = tuple(one.name for one in sorted(path.iterdir())) if path.is_dir() else (path.name,)
    return _main(path, (*names, entry) if entry else names, entry, "")[0]


def is_flow(bundle: Bundle) -> bool:
    """Return whether the main file of a source is a flow; False if the runtime is none of the catalog."""
    runtime = runtime_with(bundle.module)
    main = dict(bundle.files).get(bundle.entry)
    return runtime is not None and main is not None and _LANGUAGES[runtime.driver].is_flow(main)


def convert(module: bytes, name: str, data: bytes) -> tuple[str, bytes]:
    """Return name and content of a file as the runtime with this digest takes it; unchanged for an unknown one."""
    runtime = runtime_with(module)
    return (name, data) if runtime is None else _LANGUAGES[runtime.driver].convert(name, data)


def is_source(path: Path) -> bool:
    """Return whether a path is deployed as a source if nothing else is said: a folder, or a file of a language."""
    return path.is_dir() or runtime_for(path.suffix) is not None


def _main(path: Path, names: tuple[str, ...], entry: str, runtime: str) -> tuple[Runtime, str]:
    """Return the runtime and the path of the main file. Raises `CodeError` saying how to name them."""
    if not path.is_dir():
        entry = entry or path.name
    if entry:
        if entry not in names:
            raise CodeError(f"{path} has no {entry}: name its main file with --entry", entry=entry)
        found = runtime_named(runtime) if runtime else runtime_for(Path(entry).suffix)
        if found is None:
            raise CodeError(
                f"{entry}: no runtime is for files that end so; name one with --runtime ({', '.join(RUNTIMES)})"
            )
        return found, entry
    rows = [runtime_named(runtime)] if runtime else list(RUNTIMES.values())
    found_mains = [(row, main) for row in rows for main in _LANGUAGES[row.driver].mains if main in names]
    if not found_mains:
        if MANIFEST in names:
            raise CodeError(
                f"{path} is a project of an agent: `rota build {path}` builds it and says which file to deploy, and "
                f"`rota dev {path}` does both"
            )
        usual = ", ".join(main for row in rows for main in _LANGUAGES[row.driver].mains)
        raise CodeError(f"{path} has no main file of a usual name ({usual}): name it with --entry")
    if len({row.name for row, _ in found_mains}) > 1:
        shown = " and ".join(main for _, main in found_mains)
        raise CodeError(f"{path} has {shown}: name its main file with --entry")
    return found_mains[0]
