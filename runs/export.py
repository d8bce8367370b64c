"""`rota export` packs a run into one file; `rota import` makes a run folder of that file.

Which modules, models and tensors to pack is read from the records, not from the folders: an archive holds what the run
needs and nothing else. The journal is folded completely before packing and after unpacking, and both must give the
same facts (`read_needs`), so an import proves that the journal is the one that was exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rota.broker import records
from rota.broker.code_uses import codes_in_use
from rota.broker.modules import programs
from rota.broker.records import FORMAT_VERSION, Record
from rota.broker.world import World
from rota.common.code_kinds import IS_BUNDLE, IS_MODEL, IS_MODULE, kind_of
from rota.common.digests import digest_of
from rota.common.errors import JournalError
from rota.common.work import Code
from rota.conversations.retention import copy_needed, heads_in
from rota.engine.model_files import find_model
from rota.host.endpoints import CONVERSATIONS, RunFolder
from rota.host.files import sync_folder
from rota.host.new_folder import new_folder
from rota.runs.archive import JOURNAL, Packed, code_path, pack, tensor_path, unpack
from rota.runs.open import RunSource, open_run
from rota.runs.snapshot_check import SnapshotCheck
from rota.runs.walk import Walk

Progress = Callable[[str, int, int | None], None]  # activity, how much is done, of how much


class Needs(NamedTuple):
    """The digests that a run names: what is needed to run it again. `conversations` are heads, `modules` the programs
    of bundles too, as far as the bundles are there.
    """

    modules: tuple[bytes, ...]
    bundles: tuple[bytes, ...]
    models: tuple[bytes, ...]
    tensors: tuple[bytes, ...]
    conversations: tuple[bytes, ...]


def export_run(
    path: Path, file: Path, *, models: bool = False, tensors: bool = False, progress: Progress | None = None
) -> Packed:
    """Pack a run into one new file: journal, modules and conversations and, if asked for, the models and tensors that
    it names.

    A broker may be running on it; what is durable at this moment is packed. What is named but not packed is listed in
    the manifest under `missing`. Raises `JournalError`, `ConfigError` or `CodeError` for files that cannot be used.
    """
    with open_run(path) as source:
        needs, facts = read_needs(source, progress)
        sources, missing = _gather(source, needs, models, tensors)
        return pack(
            file, sources, rota=version("rota"), run=facts, missing=missing, progress=_bytes_of("packed", progress)
        )


def import_run(file: Path, folder: Path, *, progress: Progress | None = None) -> Packed:
    """Make a run folder from a file that `export_run` made: check every digest and fold the journal.

    Raises `ConfigError` unless the folder is new or empty, `JournalError` if the file is not what was exported. On an
    error no folder is left behind.
    """
    with new_folder(folder) as draft:
        packed = unpack(file, draft, keep=True, progress=_bytes_of("unpacked", progress))
        RunFolder(draft).prepare()
        _check_import(file, draft, packed, progress)
        _sync_folders(draft)
    return packed


def read_needs(source: RunSource, progress: Progress | None = None) -> tuple[Needs, dict[str, Any]]:
    """Fold a run and compare its snapshots; return the digests that it names, and the facts that identify it."""
    walk = Walk(source, SnapshotCheck(source))
    collected = _Collected(walk.world)
    first, last, chain = source.extent()
    try:
        for step in walk.steps(progress=_records_of(progress)):
            collected.see(step.record)
    except JournalError as error:
        raise JournalError(f"{source.name}: {error.message}", **{**error.fields, "path": source.name}) from error
    needs = collected.needs(source.modules, tuple(sorted(source.named_heads(()).said)))
    lanes = [
        {"lane": name, "retired": lane.retired, "digest": lane.digest.hex()} for name, lane in walk.world.lanes.items()
    ]
    facts = {"journal_format": FORMAT_VERSION, "first_record": first, "last_record": last, "chain": chain.hex()}
    named: dict[str, Any] = {kind: [digest.hex() for digest in digests] for kind, digests in needs._asdict().items()}
    # Every turn of a dialogue has one, so they are only counted.
    named["conversations"] = {"heads": len(needs.conversations), "digest": _digest_of(needs.conversations)}
    return needs, {**facts, "lanes": lanes, **named}


# --- what a run names -----------------------------------------------------------------------------


class _Collected:
    """Collects digests from a world and from records. Dicts, because they keep their order."""

    def __init__(self, world: World) -> None:
        self._modules: dict[bytes, None] = {}
        self._bundles: dict[bytes, None] = {}
        self._models: dict[bytes, None] = {}
        self._tensors: dict[bytes, None] = dict(world.tensors_in_use())
        for code in codes_in_use(world):
            self._see_code(code)

    def needs(self, modules: Path, conversations: tuple[bytes, ...]) -> Needs:
        return Needs(
            tuple(sorted({**self._modules, **programs(modules, self._bundles)})),
            tuple(sorted(self._bundles)),
            tuple(sorted(self._models)),
            tuple(sorted(self._tensors)),
            conversations,
        )

    def see(self, record: Record) -> None:
        """Collect the digests that a record names."""
        match record:
            case records.Opened():
                for _, code in record.deploys:
                    self._see_code(code)
            case records.Deployed():
                self._see_code(record.code)
        for ref in records.named_tensors(record):
            self._tensors[ref.digest] = None

    def _see_code(self, code: Code) -> None:
        named = {IS_MODEL: self._models, IS_BUNDLE: self._bundles}
        named.get(kind_of(code).content, self._modules)[code.digest] = None


# --- which files that is --------------------------------------------------------------------------


def _gather(
    source: RunSource, needs: Needs, models: bool, tensors: bool
) -> tuple[dict[str, Path], list[dict[str, str]]]:
    """Return the files to pack, keyed by their path in the archive, and the named files that are not among them."""
    sources = {JOURNAL: source.journal_path}
    missing: list[dict[str, str]] = []
    for digest in needs.modules:
        _take(sources, missing, "module", digest, code_path(digest, IS_MODULE), source.modules.parent)
    for digest in needs.bundles:
        _take(sources, missing, "bundle", digest, code_path(digest, IS_BUNDLE), source.modules.parent)
    for digest in needs.models:
        found = find_model(source.models, digest) if models else None
        if found is None:
            missing.append(_missing("model", digest, wanted=models))
        else:
            sources.update({f"models/{found.place}/{name}": found.folder / name for name in found.files})
    for digest in needs.tensors:
        if tensors:
            _take(sources, missing, "tensor", digest, tensor_path(digest), source.tensors.parent)
        else:
            missing.append(_missing("tensor", digest, wanted=False))
    _take_conversations(source, needs.conversations, sources, missing)
    return sources, missing


def _take_conversations(
    source: RunSource, said: tuple[bytes, ...], sources: dict[str, Path], missing: list[dict[str, str]]
) -> None:
    """Add a store of the conversations that the run names, those in states of agents included."""
    known = source.named_heads(heads_in(source.conversations)).known
    heads = dict.fromkeys((*said, *known))
    if not heads:
        return
    store = source.part("needed.sqlite")
    store.unlink(missing_ok=True)
    lost = dict.fromkeys(copy_needed(source.conversations, store, heads))
    if len(lost) < len(heads):
        sources[CONVERSATIONS] = store
    if named := tuple([head for head in said if head in lost]):
        missing.append({**_missing("conversation", named[0], wanted=True), "count": str(len(named))})


def _take(
    sources: dict[str, Path], missing: list[dict[str, str]], kind: str, digest: bytes, path: str, root: Path
) -> None:
    if (root / path).is_file():
        sources[path] = root / path
    else:
        missing.append(_missing(kind, digest, wanted=True))


def _missing(kind: str, digest: bytes, *, wanted: bool) -> dict[str, str]:
    return {"kind": kind, "digest": digest.hex(), "why": "not there" if wanted else "not packed"}


# --- import ---------------------------------------------------------------------------------------


def _check_import(file: Path, draft: Path, packed: Packed, progress: Progress | None) -> None:
    """Fold the unpacked journal, and compare it and the unpacked files with the manifest."""
    with open_run(draft) as source:
        needs, facts = read_needs(source, progress)
        _, missing = _gather(source, needs, models=True, tensors=True)
    said = packed.manifest.run
    wrong = [name for name in sorted({**facts, **said}) if facts.get(name) != said.get(name)]
    if [_without_reason(one) for one in missing] != [_without_reason(one) for one in packed.manifest.missing]:
        wrong.append("missing")
    if wrong:
        raise JournalError(
            f"{file}: its manifest says something else of the run than its journal and files do ({', '.join(wrong)}): "
            "export the run again",
            path=str(file),
        )


def _digest_of(heads: tuple[bytes, ...]) -> str:
    return digest_of(list(heads)).hex()


def _without_reason(missing: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in missing.items() if name != "why"}


def _sync_folders(root: Path) -> None:
    for folder in (root, *sorted(path for path in root.rglob("*") if path.is_dir())):
        sync_folder(folder)


def _records_of(progress: Progress | None) -> Callable[[int], None] | None:
    return None if progress is None else lambda number: progress("records read", number, None)


def _bytes_of(what: str, progress: Progress | None) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(f"bytes {what}", done, total)
