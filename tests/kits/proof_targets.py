"""Fuzz targets: snapshots of the world, and the archives that `rota export` makes.

Both may come from others. A digest only detects changes, so damage is also tried with recomputed digests: what is then
accepted must be something that we could have written, in its right place.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import warnings
import zipfile
from copy import copy
from functools import cache
from pathlib import Path
from random import Random

import msgpack
from _fuzz_engine import Check, Target, check_words
from _fuzz_mutators import mutate_bytes, mutate_json, mutate_msgpack
from blake3 import blake3
from core_kit import fold_journal
from file_targets import SEEDS, journal_of
from hypothesis import strategies as st

from rota.broker import snapshot
from rota.common.code_kinds import IS_BUNDLE, IS_MODULE
from rota.common.digests import digest
from rota.common.errors import ConfigError, JournalError, StorageFull
from rota.runs.archive import JOURNAL, code_path, pack, tensor_path, unpack


@cache
def snapshot_of(seed: int, part: int) -> bytes:
    """The snapshot in the middle of a random run."""
    bodies = list(journal_of(seed))
    return b"".join(snapshot.encode(snapshot.take(fold_journal(bodies[: len(bodies) * part // 4]))))


def mutate_items(rng: Random, data: bytes, other: bytes) -> bytes:
    """Damage, omit or move one item of a snapshot, or insert one of another snapshot."""
    items, donors = _items(data), _items(other)
    at = rng.randrange(len(items))
    match rng.randrange(6):
        case 0:
            del items[at]
        case 1:
            items.insert(rng.randrange(len(items)), items.pop(at))
        case 2:
            items.insert(at, rng.choice(donors))
        case _:
            items[at] = mutate_msgpack(rng, items[at], rng.choice(donors))
    return b"".join([msgpack.packb(item) for item in items])


def _items(data: bytes) -> list[bytes]:
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    return list(unpacker)


def check_snapshot(data: bytes) -> bool:
    """A snapshot loads as a consistent world with the same snapshot, byte for byte, or gives a `JournalError`."""
    parts = [data[at : at + 1_000] for at in range(0, len(data), 1_000)]
    try:
        world = snapshot.load(parts)
    except JournalError as error:
        check_words(error.message)
        return False
    world.check_invariants()
    again = b"".join(snapshot.encode(snapshot.take(world)))
    assert b"".join(snapshot.encode(snapshot.take(snapshot.load([again])))) == again
    return True


# --- archives -----------------------------------------------------------------------------------------------------


@cache
def archive(kind: int) -> bytes:
    """An archive with a member of each kind, one with the run file alone, and one with an empty one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contents = {JOURNAL: b"journal" * 50 if kind else b""}
        if kind == 2:
            contents[code_path(digest(b"module"), IS_MODULE)] = b"module"
            contents[code_path(digest(b"bundle"), IS_BUNDLE)] = b"bundle"
            contents[tensor_path(digest(b"tensor"))] = b"tensor"
            contents["models/m/1/model.onnx"] = b"graph"
            contents["models/m/1/data/weights"] = bytes(300)
        sources = {}
        for place, (path, content) in enumerate(contents.items()):
            sources[path] = folder / str(place)
            sources[path].write_bytes(content)
        pack(folder / "run.zip", sources, rota="0", run={"records": 3}, missing=[{"kind": "module", "digest": "00"}])
        return (folder / "run.zip").read_bytes()


_NAMES = ("../out", "/out", "models/../../out", "models/m/1/x", "a\\b", "x" * 300, JOURNAL)


def mutate_archive(rng: Random, data: bytes, other: bytes) -> bytes:
    """Damage bytes or the manifest, and usually recompute the seal."""
    if rng.random() < 0.5:
        damaged = _with_other_manifest(rng, data, other)
    else:
        damaged = mutate_bytes(rng, data[:-64], other[:-64])
    if rng.random() < 0.8:
        return damaged + blake3(damaged).hexdigest().encode()
    return damaged + data[-64:]


def _with_other_manifest(rng: Random, data: bytes, other: bytes) -> bytes:
    with tempfile.TemporaryFile() as target:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as made, _open(data) as whole, _open(other) as donor:
            made.comment = b"0" * 64
            infos = whole.infolist()
            if rng.random() < 0.3:
                infos.insert(rng.randrange(len(infos)), rng.choice(infos))
            for info in map(copy, infos):
                content = whole.read(info.filename)
                if info.filename == "manifest.json":
                    content = mutate_json(rng, content, donor.read("manifest.json"))
                elif rng.random() < 0.1:
                    info.filename = rng.choice(_NAMES)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # for duplicate names
                    made.writestr(info, content)
        target.seek(0)
        return target.read()[:-64]


def _open(data: bytes) -> zipfile.ZipFile:
    return zipfile.ZipFile(io.BytesIO(data))


def start_archive(folder: Path) -> Check:
    file, into = folder / "run.zip", folder / "deep" / "into"

    def check(data: bytes) -> bool:
        shutil.rmtree(into.parent, ignore_errors=True)
        into.mkdir(parents=True)
        file.write_bytes(data)
        try:
            packed = unpack(file, into)
        except (JournalError, ConfigError, StorageFull) as error:
            check_words(error.message)
            return False
        finally:
            assert sorted(folder.iterdir()) == sorted([file, into.parent]), "a file outside of the folder"
            assert list(into.parent.iterdir()) == [into], "a file outside of the folder"
        found = {path.relative_to(into).as_posix(): path.read_bytes() for path in into.rglob("*") if path.is_file()}
        assert found.keys() == {member.path for member in packed.manifest.members}
        assert all(digest(found[member.path]) == member.digest for member in packed.manifest.members)
        json.dumps(packed.manifest.run)
        return True

    return check


TARGETS = [
    Target("snapshot", st.builds(snapshot_of, SEEDS, st.integers(1, 4)), mutate_items, lambda _: check_snapshot,
           bases=15, damaged=8),
    Target("archive", st.integers(0, 2).map(archive), mutate_archive, start_archive, bases=25, damaged=10),
]  # fmt: skip
