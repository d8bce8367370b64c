"""The model repository: folders `NAME/VERSION/` of model files, each with a manifest that names every file by digest.

A model is named by the digest of all its files, so equal digests mean equal bytes. A version appears complete, by a
rename, and is read-only afterwards. `check` reads the files again and raises if one differs from the manifest. The
command line imports this file, so it must not import onnxruntime.

Journals name models by this digest: a change of `_digest_of_files` or of the list of files that are left out needs a
new manifest format (MANIFEST_FORMAT).
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from blake3 import blake3

from rota.common.digests import DIGEST_BYTES, digest_of
from rota.common.errors import CodeError
from rota.common.shown import shown
from rota.common.targets import VERSION_DIGITS_MAX, is_name
from rota.gpu_worker.draws import drawing_operator
from rota.gpu_worker.graph import Graph, check_graph, read_graph
from rota.gpu_worker.settings import FILE_NAME as SETTINGS_FILE
from rota.gpu_worker.settings import ModelSettings, parse_settings
from rota.host.files import sync_folder

MODEL_FILE: Final = "model.onnx"
MANIFEST_FILE: Final = "rota-manifest.json"
MANIFEST_FORMAT: Final = 1

_DIGEST_DOMAIN: Final = "rota model 1"
_CHUNK_BYTES: Final = 1 << 20
_SCRATCH_PREFIX: Final = ".adding-"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model: its path in the version's folder, with `/`; its size and BLAKE3 digest."""

    path: str
    size_bytes: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One version of a model, as in its manifest."""

    name: str
    version: int
    digest: bytes
    files: tuple[ModelFile, ...]
    folder: Path

    @property
    def model_path(self) -> Path:
        return self.folder / MODEL_FILE

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def graph(self) -> Graph:
        """Return the inputs and outputs of the model. Raises `CodeError` if its file cannot be read."""
        try:
            return _graph_of(self.model_path)
        except OSError as error:
            raise CodeError(
                f"{self._title()}: {self.model_path} cannot be read ({error.strerror}); {_REMEDY}"
            ) from None

    def drawing_operator(self) -> str:
        """Return an operator of the model that draws random numbers, or an empty text. Raises as `graph` does."""
        try:
            return _read_model(self.model_path, drawing_operator)
        except OSError as error:
            raise CodeError(
                f"{self._title()}: {self.model_path} cannot be read ({error.strerror}); {_REMEDY}"
            ) from None

    def settings(self) -> ModelSettings:
        """Return the settings in the model's `model.toml`, or the defaults without one."""
        if all(file.path != SETTINGS_FILE for file in self.files):
            return ModelSettings()
        path = self.folder / SETTINGS_FILE
        return parse_settings(_read_text(path), str(path))

    def check(self) -> None:
        """Read all files again. Raises `CodeError` naming the first that is missing or has changed."""
        for file in self.files:
            path = self.folder / file.path
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise CodeError(f"{self._title()}: {path} leads out of the model's folder; {_REMEDY}")
            try:
                size_bytes, digest = _measure(path)
            except OSError as error:
                raise CodeError(f"{self._title()}: {path} cannot be read ({error.strerror}); {_REMEDY}") from None
            if (size_bytes, digest) != (file.size_bytes, file.digest):
                raise CodeError(
                    f"{self._title()}: {path} is damaged: it has {size_bytes} bytes with digest {digest.hex()[:16]}, "
                    f"the manifest says {file.size_bytes} bytes with {file.digest.hex()[:16]}; {_REMEDY}"
                )

    def _title(self) -> str:
        return f"model {self.name} version {self.version}"


_REMEDY: Final = "remove this version's folder and add the model again"


class Repository:
    """The models under one folder. Several processes may read and add at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, path: Path, name: str) -> ModelEntry:
        """Copy the model in `path`, a folder with `model.onnx` or one ONNX file, and return its version.

        Files whose names start with a dot are left out. Adding the same bytes again returns the existing version.
        Raises `CodeError` if the model cannot be used.
        """
        if not _is_model_name(name):
            raise CodeError(f"{name!r} cannot name a model: use letters, digits, _ . - and do not start with a dot")
        sources = dict(_source_files(path))
        self.root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=self.root))
        try:
            files = tuple(_copy(source, scratch, relative) for relative, source in sources.items())
            _check_graph(scratch / MODEL_FILE, sources)
            if SETTINGS_FILE in sources:
                parse_settings(_read_text(scratch / SETTINGS_FILE), str(sources[SETTINGS_FILE]))
            return self._publish(scratch, name, files)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # already renamed on success

    def remove(self, entry: ModelEntry) -> None:
        """Remove a version."""
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=self.root))
        try:
            os.rename(entry.folder, scratch / str(entry.version))  # so that nobody reads half of it
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def list(self) -> tuple[ModelEntry, ...]:
        """Return all versions of all models, by name and version."""
        if not self.root.is_dir():
            return ()
        names = sorted(child.name for child in self.root.iterdir() if child.is_dir() and _is_model_name(child.name))
        return tuple(entry for name in names for entry in self._versions(name))

    def show(self, name: str, version: int | None = None) -> ModelEntry:
        """Return one version of a model, by default the newest. Raises `CodeError` if there is none."""
        versions = self._versions(name) if _is_model_name(name) else ()
        for entry in reversed(versions):
            if version is None or entry.version == version:
                return entry
        wanted = f"model {name!r}" if version is None else f"version {version} of model {name!r}"
        raise CodeError(f"there is no {wanted} in {self.root}; `rota model ls` lists them, `rota model add` adds one")

    def named(self, text: str) -> ModelEntry:
        """Return the model that a text NAME or NAME@VERSION names. Raises `CodeError` if there is none."""
        name, at, version = text.partition("@")
        if at and not (_is_version(version) and len(version) <= VERSION_DIGITS_MAX):
            raise CodeError(f"{shown(text)} names no version of a model: use NAME or NAME@VERSION, as digits@2")
        return self.show(name, int(version) if at else None)

    def find(self, digest: bytes) -> ModelEntry:
        """Return the model with this digest. Raises `CodeError` if no version has it."""
        for entry in self.list():
            if entry.digest == digest:
                return entry
        raise CodeError(
            f"no model in {self.root} has the digest {digest.hex()[:16]}; add it on this host too: `rota model add`"
        )

    def _versions(self, name: str) -> tuple[ModelEntry, ...]:
        folder = self.root / name
        if not folder.is_dir():
            return ()
        numbers = sorted(int(child.name) for child in folder.iterdir() if _is_version(child.name))
        return tuple(_read_manifest(folder / str(number), name, number) for number in numbers)

    def _publish(self, scratch: Path, name: str, files: tuple[ModelFile, ...]) -> ModelEntry:
        digest = _digest_of_files(files)
        (self.root / name).mkdir(exist_ok=True)
        while True:
            versions = self._versions(name)
            for entry in versions:
                if entry.digest == digest:
                    return entry
            version = versions[-1].version + 1 if versions else 1
            folder = self.root / name / str(version)
            _write_manifest(scratch, ModelEntry(name, version, digest, files, folder))
            try:
                os.rename(scratch, folder)
            except OSError:
                if not folder.exists():
                    raise
                continue  # another process took this version before our rename
            sync_folder(folder.parent)
            return ModelEntry(name, version, digest, files, folder)


def _is_model_name(name: str) -> bool:
    return is_name(name) and not name.startswith(".")


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _source_files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files to copy with their path in the model, sorted by the bytes of that path."""
    if path.is_file():
        yield MODEL_FILE, path
        return
    if not path.is_dir():
        raise CodeError(f"{path} is neither a file nor a folder")
    found = {}
    root = path.resolve()
    for child in path.rglob("*"):
        relative = child.relative_to(path)
        if any(part.startswith(".") for part in relative.parts) or str(relative) == MANIFEST_FILE:
            continue
        if not relative.as_posix().isprintable():
            raise CodeError(f"{child!r} has a name that is not plain text; rename the file")
        if child.is_file():
            found[relative.as_posix()] = _own_file(child, root)
        elif not child.is_dir() or child.is_symlink():
            raise CodeError(f"{child} is neither a file nor a folder of its own; a model holds plain files only")
    if MODEL_FILE not in found:
        raise CodeError(f"{path} has no {MODEL_FILE}; name the model's main file so")
    for relative_path in sorted(found, key=os.fsencode):
        yield relative_path, found[relative_path]


def _own_file(child: Path, root: Path) -> Path:
    """Return the file itself. It may be linked to within the model's folder, but must not be outside of it."""
    real = child.resolve()
    if not real.is_relative_to(root):
        raise CodeError(f"{child} is a link to {real}, which is outside of {root}: put a copy there (`cp -L`)")
    return real


def _check_graph(path: Path, files: Iterable[str]) -> None:
    """Raise `CodeError` for a graph whose tasks could not be sent, or that needs files which the model lacks."""
    try:
        check_graph(_graph_of(path), dict.fromkeys(files))
    except CodeError as error:
        raise CodeError(f"{MODEL_FILE} cannot be used: {error.message}") from None


def _graph_of(path: Path) -> Graph:
    return _read_model(path, read_graph)


def _read_model(path: Path, read: Callable[[memoryview], T]) -> T:
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise CodeError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            return read(data)


def _copy(source: Path, folder: Path, relative: str) -> ModelFile:
    target = folder / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher = blake3()
    size_bytes = 0
    try:
        with open(source, "rb") as reader, open(target, "wb") as writer:
            while chunk := reader.read(_CHUNK_BYTES):
                hasher.update(chunk)
                writer.write(chunk)
                size_bytes += len(chunk)
            writer.flush()
            os.fsync(writer.fileno())
    except OSError as error:
        raise CodeError(f"{source} cannot be copied to {target}: {error.strerror}") from None
    target.chmod(0o444)
    return ModelFile(relative, size_bytes, hasher.digest())


def _measure(path: Path) -> tuple[int, bytes]:
    hasher = blake3()
    size_bytes = 0
    with open(path, "rb") as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            hasher.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, hasher.digest()


def _digest_of_files(files: Iterable[ModelFile]) -> bytes:
    return digest_of([_DIGEST_DOMAIN, [[file.path, file.digest] for file in files]])


def _write_manifest(folder: Path, entry: ModelEntry) -> None:
    manifest = {
        "format": MANIFEST_FORMAT,
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest.hex(),
        "files": [[file.path, file.size_bytes, file.digest.hex()] for file in entry.files],
    }
    path = folder / MANIFEST_FILE
    with open(path, "w", encoding="utf-8", newline="\n") as writer:
        json.dump(manifest, writer, indent=1)
        writer.write("\n")
        writer.flush()
        os.fsync(writer.fileno())
    sync_folder(folder)


def _read_manifest(folder: Path, name: str, version: int) -> ModelEntry:
    path = folder / MANIFEST_FILE
    try:
        entry = _entry_of(json.loads(_read_text(path)), folder)
        digest = _digest_of_files(entry.files)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise CodeError(f"{path} is not a manifest of this version of Rota ({repr(error)[:200]}); {_REMEDY}") from None
    if (entry.name, entry.version, entry.digest) != (name, version, digest):
        raise CodeError(f"{path} does not belong to {name} version {version}, or was changed; {_REMEDY}")
    return entry


def _entry_of(manifest: Any, folder: Path) -> ModelEntry:
    if manifest["format"] != MANIFEST_FORMAT:
        raise ValueError(f"format {manifest['format']!r}, expected {MANIFEST_FORMAT}")
    files = tuple(ModelFile(str(path), int(size), _digest(text)) for path, size, text in manifest["files"])
    return ModelEntry(manifest["name"], manifest["version"], _digest(manifest["digest"]), files, folder)


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != DIGEST_BYTES:
        raise ValueError(f"{text!r} is not a digest")
    return digest


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CodeError(f"{path} is not UTF-8 text") from None
