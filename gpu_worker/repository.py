"""The model repository: folders `NAME/VERSION/` of model files, each with a manifest that names every file by digest.

A model is named by the digest of all its files, so equal digests mean equal bytes. A version appears complete, by a
rename, and is read-only afterwards; its number is never given again. `check` reads the files again and raises if one
differs from the manifest. The command line imports this file, so it must not import onnxruntime.

A file that is being copied is in a folder `.adding-*`, whose lock its process holds: a folder that is not locked was
left by a process that died, and the next change of the repository removes it.

Journals name models by this digest: a change of `_digest_of_files` or of the list of files that are left out needs a
new manifest format (MANIFEST_FORMAT).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from rota.common.digests import DIGEST_BYTES, digest_of
from rota.common.errors import CodeError
from rota.common.shown import shown
from rota.common.targets import MODEL_PREFIX, VERSION_DIGITS_MAX, is_name
from rota.gpu_worker.certificate_store import CertificateStore
from rota.gpu_worker.draws import drawing_operator
from rota.gpu_worker.graph import Graph, read_graph
from rota.gpu_worker.model_check import MODEL_FILE, check_model, read_model, read_text
from rota.gpu_worker.model_sources import copy_file, measure, source_files
from rota.gpu_worker.settings import FILE_NAME as SETTINGS_FILE
from rota.gpu_worker.settings import ModelSettings, parse_settings
from rota.host.files import locked, regular_opener, sync_folder, try_lock
from rota.host.model_versions import MANIFEST_FILE

MANIFEST_FORMAT: Final = 1

_DIGEST_DOMAIN: Final = "rota model 1"
_SCRATCH_PREFIX: Final = ".adding-"
_LOCK_FILE: Final = ".lock"  # of the repository while it changes, and of each scratch folder while it is used
_NEXT_FILE: Final = ".next"  # in a model's folder: the number of its next version, once one was removed
_REFERENCE: Final = re.compile(rf"([^@]+)(?:@([1-9][0-9]{{0,{VERSION_DIGITS_MAX - 1}}}))?")


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

    @property
    def is_there(self) -> bool:
        """Whether the version was not removed since."""
        return (self.folder / MANIFEST_FILE).exists()

    def graph(self) -> Graph:
        """Return the inputs and outputs of the model. Raises `CodeError` if its file cannot be read."""
        try:
            return read_model(self.model_path, read_graph)
        except OSError as error:
            raise CodeError(
                f"{self._title()}: {self.model_path} cannot be read ({error.strerror}); {_REMEDY}"
            ) from None

    def drawing_operator(self) -> str:
        """Return an operator of the model that draws random numbers, or an empty text. Raises as `graph` does."""
        try:
            return read_model(self.model_path, drawing_operator)
        except OSError as error:
            raise CodeError(
                f"{self._title()}: {self.model_path} cannot be read ({error.strerror}); {_REMEDY}"
            ) from None

    def settings(self) -> ModelSettings:
        """Return the settings in the model's `model.toml`, or the defaults without one."""
        if all(file.path != SETTINGS_FILE for file in self.files):
            return ModelSettings()
        path = self.folder / SETTINGS_FILE
        return parse_settings(read_text(path), str(path))

    def check(self) -> None:
        """Read all files again. Raises `CodeError` naming the first that is missing or has changed."""
        for file in self.files:
            path = self.folder / file.path
            if not path.resolve().is_relative_to(self.folder.resolve()):
                raise CodeError(f"{self._title()}: {path} leads out of the model's folder; {_REMEDY}")
            try:
                size_bytes, digest = measure(path)
            except OSError as error:
                raise CodeError(f"{self._title()}: {path} cannot be read ({error.strerror}); {_REMEDY}") from None
            if (size_bytes, digest) != (file.size_bytes, file.digest):
                raise CodeError(
                    f"{self._title()}: {path} is damaged: it has {size_bytes} bytes with digest {digest.hex()[:16]}, "
                    f"the manifest says {file.size_bytes} bytes with {file.digest.hex()[:16]}; {_REMEDY}"
                )

    def _title(self) -> str:
        return f"model {self.name} version {self.version}"


_REMEDY: Final = "remove this version (`rota model rm`) and add the model again"


class DamagedEntry(NamedTuple):
    """A version that cannot be used, and why."""

    name: str
    version: int
    problem: str


class Repository:
    """The models under one folder. Several processes may read and change it at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(self, path: Path, name: str) -> ModelEntry:
        """Copy the model in `path`, a folder with `model.onnx` or one ONNX file, and return its version.

        Files whose names start with a dot are left out. Adding the same bytes again returns the existing version.
        Raises `CodeError` if the model cannot be used.
        """
        if not _is_model_name(name):
            raise CodeError(f"{name!r} cannot name a model: use letters, digits, _ . - and do not start with a dot")
        sources = dict(source_files(path))
        self.root.mkdir(parents=True, exist_ok=True)
        with self._scratch() as scratch:
            files = tuple(ModelFile(name, *copy_file(source, scratch, name)) for name, source in sources.items())
            check_model(scratch, sources, path if path.is_dir() else path.parent)
            return self._publish(scratch, name, files)

    def remove(self, name: str, version: int) -> None:
        """Remove a version, also a damaged one, and its certificates. Its number is never given again.

        Raises `CodeError` if there is none, or if its folder cannot be moved.
        """
        found = [one for one in self._versions(name) if one.version == version] if _is_model_name(name) else []
        if not found:
            raise self._missing(name, version)
        with self._scratch() as scratch:
            with locked(self.root / _LOCK_FILE, exclusive=True):
                self._note_next(name, max(self._next(name), version + 1))
                self._move_away(name, version, scratch)
            if isinstance(found[0], ModelEntry):
                self._remove_certificates(found[0].digest)

    def withdraw(self, entry: ModelEntry) -> None:
        """Take back a version that was just added and that nobody could use, as if it had never been there."""
        with self._scratch() as scratch, locked(self.root / _LOCK_FILE, exclusive=True):
            self._move_away(entry.name, entry.version, scratch)
            with contextlib.suppress(OSError):
                (self.root / entry.name).rmdir()  # if it is empty
        self._remove_certificates(entry.digest)

    def _move_away(self, name: str, version: int, scratch: Path) -> None:
        try:
            os.rename(self.root / name / str(version), scratch / str(version))  # nobody reads half of it
        except OSError as error:
            raise CodeError(f"version {version} of {name} cannot be removed: {error.strerror}") from error
        sync_folder(self.root / name)

    def _remove_certificates(self, digest: bytes) -> None:
        if not any(one.digest == digest for one in self.list()):
            CertificateStore(self.root).remove(digest.hex())

    def list(self) -> tuple[ModelEntry, ...]:
        """Return all usable versions of all models, by name and version."""
        return tuple(one for one in self.entries() if isinstance(one, ModelEntry))

    def entries(self) -> Iterator[ModelEntry | DamagedEntry]:
        """Yield all versions of all models, by name and version."""
        if self.root.is_dir():
            for name in sorted(child.name for child in self.root.iterdir() if _is_model_name(child.name)):
                yield from self._versions(name)

    def show(self, name: str, version: int | None = None) -> ModelEntry:
        """Return one version of a model, by default the newest.

        Raises `CodeError` if there is none, or if it is damaged.
        """
        versions = self._versions(name) if _is_model_name(name) else ()
        for entry in reversed(versions):
            if version is None or entry.version == version:
                return _usable(entry)
        raise self._missing(name, version)

    def named(self, text: str) -> ModelEntry:
        """Return the model that a text NAME or NAME@VERSION names. Raises `CodeError` if there is none."""
        return self.show(*parse_reference(text))

    def find(self, digest: bytes) -> ModelEntry:
        """Return the model with this digest. Raises `CodeError` if no version has it."""
        problems = []
        for entry in self.entries():
            if isinstance(entry, DamagedEntry):
                problems.append(entry.problem)
            elif entry.digest == digest:
                return entry
        if problems:  # perhaps it is one of those
            raise CodeError(f"no good model in {self.root} has the digest {digest.hex()[:16]}: {problems[0]}")
        raise CodeError(
            f"no model in {self.root} has the digest {digest.hex()[:16]}; add it on this host too: `rota model add`"
        )

    def _missing(self, name: str, version: int | None) -> CodeError:
        wanted = f"model {name!r}" if version is None else f"version {version} of model {name!r}"
        return CodeError(f"there is no {wanted} in {self.root}; `rota model ls` lists them, `rota model add` adds one")

    def _versions(self, name: str) -> tuple[ModelEntry | DamagedEntry, ...]:
        folder = self.root / name
        if not folder.is_dir():
            return ()
        numbers = sorted(int(child.name) for child in folder.iterdir() if _is_version(child.name))
        return tuple([_entry(folder / str(number), name, number) for number in numbers])

    def _next(self, name: str) -> int:
        """Return the number of a model's next version."""
        numbers = [one.version for one in self._versions(name)]
        path = self.root / name / _NEXT_FILE
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii", opener=regular_opener) as file:
            numbers.append(int(file.read()) - 1)
        return max(numbers, default=0) + 1

    def _note_next(self, name: str, number: int) -> None:
        path = self.root / name / _NEXT_FILE
        fresh = path.with_name(f"{_NEXT_FILE}-new")
        with open(fresh, "w", encoding="ascii") as file:
            file.write(f"{number}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        """Make a folder for the block, after removing those of processes that died."""
        with locked(self.root / _LOCK_FILE, exclusive=True):
            self._remove_stale()
            scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=self.root))
            lock = os.open(scratch.with_name(f"{scratch.name}{_LOCK_FILE}"), os.O_RDWR | os.O_CREAT, 0o600)
            try_lock(lock)
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)  # already renamed on success
            os.close(lock)
            with contextlib.suppress(OSError):
                os.unlink(f"{scratch}{_LOCK_FILE}")

    def _remove_stale(self) -> None:
        """Remove the scratch folders that no process uses. The repository is locked, so none is being made."""
        for scratch in sorted(self.root.glob(f"{_SCRATCH_PREFIX}*")):
            if scratch.is_dir():
                lock = scratch.with_name(f"{scratch.name}{_LOCK_FILE}")
                with contextlib.suppress(OSError), open(lock, "ab") as file:
                    if try_lock(file.fileno()):
                        shutil.rmtree(scratch, ignore_errors=True)
                        lock.unlink()

    def _publish(self, scratch: Path, name: str, files: tuple[ModelFile, ...]) -> ModelEntry:
        digest = _digest_of_files(files)
        with locked(self.root / _LOCK_FILE, exclusive=True):
            for entry in self._versions(name):
                if isinstance(entry, ModelEntry) and entry.digest == digest:
                    return entry
            version = self._next(name)
            folder = self.root / name / str(version)
            folder.parent.mkdir(exist_ok=True)
            _write_manifest(scratch, ModelEntry(name, version, digest, files, folder))
            os.rename(scratch, folder)
            sync_folder(folder.parent)
        return ModelEntry(name, version, digest, files, folder)


def parse_reference(text: str) -> tuple[str, int | None]:
    """Return name and version of `NAME` or `NAME@VERSION`, with or without `model:` before it.

    Raises `CodeError` for anything else.
    """
    found = _REFERENCE.fullmatch(text.removeprefix(MODEL_PREFIX))
    if found is None or not _is_model_name(found[1]):
        raise CodeError(f"{shown(text)} names no model: use NAME or NAME@VERSION, such as digits or digits@2")
    return found[1], int(found[2]) if found[2] else None


def _entry(folder: Path, name: str, version: int) -> ModelEntry | DamagedEntry:
    try:
        return _read_manifest(folder, name, version)
    except CodeError as error:
        return DamagedEntry(name, version, error.message)


def _usable(entry: ModelEntry | DamagedEntry) -> ModelEntry:
    if isinstance(entry, DamagedEntry):
        raise CodeError(entry.problem)
    return entry


def _is_model_name(name: str) -> bool:
    return is_name(name) and not name.startswith(".")


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0")


def _digest_of_files(files: Iterable[ModelFile]) -> bytes:
    return digest_of([_DIGEST_DOMAIN, [[file.path, file.digest] for file in files]])


def _write_manifest(folder: Path, entry: ModelEntry) -> None:
    path = folder / MANIFEST_FILE
    with open(path, "w", encoding="utf-8", newline="\n") as writer:
        json.dump(_manifest_of(entry), writer, indent=1)
        writer.write("\n")
        writer.flush()
        os.fsync(writer.fileno())
    sync_folder(folder)


def _manifest_of(entry: ModelEntry) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "name": entry.name,
        "version": entry.version,
        "digest": entry.digest.hex(),
        "files": [[file.path, file.size_bytes, file.digest.hex()] for file in entry.files],
    }


def _read_manifest(folder: Path, name: str, version: int) -> ModelEntry:
    path = folder / MANIFEST_FILE
    try:
        entry = _entry_of(json.loads(read_text(path)), folder)
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
