"""Fuzz targets: records, run files and their WALs, model repositories, model.toml, endpoints.json, WebAssembly modules.

Files on a disk may be damaged, foreign, or malicious: each reader raises one error for that (`JournalError`,
`CodeError`, `ConfigError`), terminates, and writes nothing to a file that it refuses.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import tempfile
from contextlib import closing
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import wasmtime
from _fuzz_engine import Check, Target, check_words
from _fuzz_mutators import mutate_bytes, mutate_json, mutate_msgpack
from chaos import Chaos, deploy_all
from components import component_of
from core_kit import Broker
from hypothesis import strategies as st
from later_run import answered_later, ended_by_inputs
from smallest_model import SMALLEST_MODEL

from rota.broker import records, wal
from rota.broker.journal import Journal, link
from rota.broker.recovery import fold
from rota.broker.world import World
from rota.common.component_binary import check_component, inspect_component
from rota.common.digests import ZERO_DIGEST
from rota.common.errors import CodeError, ConfigError, JournalError, StorageFull
from rota.common.wasm_module import check_interface, inspect_module
from rota.gpu_worker.repository import Repository
from rota.gpu_worker.settings import parse_settings
from rota.host.endpoints import Endpoints
from rota.host.model_versions import MANIFEST_FILE

# --- records ------------------------------------------------------------------------------------------------------


_BY_CHANCE = 6  # seeds
_RUNS = _BY_CHANCE + 2


@cache
def journal_of(seed: int) -> tuple[bytes, ...]:
    """The bodies of a random run's journal, with almost every kind of record; of the last seeds those of later_run.py,
    for what chance does not meet.
    """
    if seed >= _BY_CHANCE:
        return tuple((answered_later, ended_by_inputs)[seed - _BY_CHANCE]().journal)
    broker = Broker()
    chaos = Chaos(broker, seed, 2, inputs=True)
    deploy_all(chaos.producer, "main")
    chaos.producer.open_lane("l", deploys_from="main", policy="recorded")
    chaos.lanes = ["main", "l"]
    chaos.run(60)
    chaos.settle()
    chaos.producer.drop_dead()
    return tuple(broker.journal[:120])


SEEDS = st.integers(0, _RUNS - 1)
BODIES = st.builds(lambda seed, at: journal_of(seed)[at % len(journal_of(seed))], SEEDS, st.integers(0, 200))


def check_record(body: bytes) -> bool:
    """A body is the canonical encoding of a record, or gives a `JournalError`."""
    try:
        record = records.decode(body)
    except JournalError as error:
        check_words(error.message)
        return False
    assert records.encode(record) == body, "another encoding of the same record was taken"
    return True


def mutate_journal(rng: Random, bodies: tuple[bytes, ...], other: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Damage, omit or move one record, or insert one of another run."""
    out = list(bodies)
    at = rng.randrange(len(out))
    match rng.randrange(5):
        case 0:
            del out[at]
        case 1:
            out.insert(rng.randrange(len(out)), out.pop(at))
        case 2:
            out.insert(at, rng.choice(other))
        case _:
            out[at] = mutate_msgpack(rng, out[at], rng.choice(other))
    return tuple(out)


def check_fold(bodies: tuple[bytes, ...]) -> bool:
    """Records of a valid chain that cannot follow from each other are refused, with the number of the first."""
    world = World()
    try:
        fold(world, map(records.decode, bodies))
    except JournalError as error:
        check_words(error.message)
        return False
    return True


# --- run files ----------------------------------------------------------------------------------------------------


class RunFile(NamedTuple):
    """A run file and its WAL, with the records of `journal_of(seed)`. `forged`: the chain was recomputed after the
    damage, as an attacker would do.
    """

    seed: int
    data: bytes
    wal: bytes
    forged: bool = False


@cache
def run_file(seed: int, kind: str) -> RunFile:
    """A closed run file, one that a crash left with its WAL, or one with a WAL of full size."""
    bodies = list(map(records.decode, journal_of(seed)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.rota"
        wal_path = path.with_name("run.rota-wal")
        with closing(Journal.open(path)) as journal:
            list(journal.read())
            if kind == "reserved":
                journal.log.reserve()
            for start in range(0, len(bodies), 9):
                journal.append(bodies[start : start + 9])
            if kind != "closed":
                return RunFile(seed, path.read_bytes(), wal_path.read_bytes().rstrip(b"\0"))
        return RunFile(seed, path.read_bytes(), b"")


RUN_FILES = st.builds(run_file, SEEDS, st.sampled_from(("closed", "closed", "crashed", "reserved")))
_SCHEMAS = (
    "CREATE TABLE records (number, body, chain)",
    "CREATE TABLE records (number INTEGER PRIMARY KEY, body TEXT, chain TEXT)",
    "CREATE VIEW records AS SELECT number, body, chain FROM kept ORDER BY number DESC",
    # A query that never returns a row and never ends.
    "CREATE VIEW records AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) "
    "SELECT n AS number, x'' AS body, x'' AS chain FROM c WHERE n < 0",
    "CREATE TABLE records (number INTEGER PRIMARY KEY, body BLOB NOT NULL, chain BLOB NOT NULL, more) STRICT",
    "CREATE TABLE records (number INTEGER PRIMARY KEY, body BLOB, chain BLOB AS (zeroblob(900000000)))",
)  # fmt: skip
_STATEMENTS = (
    "UPDATE records SET body = x'' WHERE number = 3",
    "UPDATE records SET body = zeroblob(100000) WHERE number = 4",
    "UPDATE records SET number = 9223372036854775807 WHERE number = 5",
    "DELETE FROM records WHERE number > 7",
    "DELETE FROM records",
    "INSERT INTO records SELECT number + 1000, body, chain FROM records",
    "CREATE INDEX other ON records(chain)",
    "CREATE TABLE other (number)",
    "CREATE TRIGGER other AFTER INSERT ON records BEGIN DELETE FROM records; END",
)


def mutate_run_file(rng: Random, file: RunFile, other: RunFile) -> RunFile:
    """Damage bytes or pages of file or WAL, mix two files, or change one with SQL and chain it anew."""
    way = rng.randrange(8)
    if way == 0 and not file.wal:
        return _with_sql(rng, file)
    if way == 1 and not file.wal:
        return _forged(rng, file)
    if way == 2:
        return file._replace(wal=other.wal)
    if way < 5 and file.wal:
        return file._replace(wal=_damaged(rng, file.wal, other.wal, 4_120))
    return file._replace(data=_damaged(rng, file.data, other.data, 4_096))


def _damaged(rng: Random, data: bytes, other: bytes, page: int) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(rng, data, other)
    out = bytearray(data)
    at, donor = (rng.randrange(max(1, len(part) // page)) * page for part in (data, other or data))
    match rng.randrange(4):
        case 0:
            out[at : at + page] = bytes(page)
        case 1:
            out[at : at + page] = (other or data)[donor : donor + page]
        case 2:
            del out[at:]
        case _:
            out[at:at] = out[at : at + page]
    return bytes(out)


def _rewritten(file: RunFile, change: Any) -> RunFile:
    """Let SQLite change a file without touching the disk. Bytes 18 and 19 say that it has a WAL, which it has not."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.deserialize(file.data[:18] + b"\1\1" + file.data[20:])
        try:
            change(connection)
        except sqlite3.Error:
            return file
        data = connection.serialize()
    return file._replace(data=data[:18] + b"\2\2" + data[20:], forged=True)


def _with_sql(rng: Random, file: RunFile) -> RunFile:
    def change(connection: sqlite3.Connection) -> None:
        if rng.random() < 0.5:
            connection.execute(rng.choice(_STATEMENTS))
            return
        connection.execute("ALTER TABLE records RENAME TO kept")
        schema = rng.choice(_SCHEMAS)
        connection.execute(schema)
        if "TABLE" in schema:
            as_text = "CAST(hex(body) AS TEXT)" if "TEXT" in schema else "body"
            connection.execute(f"INSERT INTO records (number, body) SELECT number, {as_text} FROM kept")

    return _rewritten(file, change)


def _forged(rng: Random, file: RunFile) -> RunFile:
    def change(connection: sqlite3.Connection) -> None:
        rows = connection.execute("SELECT number, body FROM records ORDER BY number").fetchall()
        bodies = mutate_journal(rng, tuple(body for _, body in rows), journal_of(file.seed))
        connection.execute("DELETE FROM records")
        chain = ZERO_DIGEST
        for number, body in enumerate(bodies, 1):
            chain = link(chain, body)
            connection.execute("INSERT INTO records VALUES (?, ?, ?)", (number, body, chain))

    return _rewritten(file, change)


def start_run_file(folder: Path) -> Check:
    path, wal_path = folder / "run.rota", folder / "run.rota-wal"

    def check(file: RunFile) -> bool:
        shutil.rmtree(folder)
        folder.mkdir()
        path.write_bytes(file.data)
        if file.wal:
            wal_path.write_bytes(file.wal)
        found: list[records.Record] = []
        try:
            with closing(Journal.open(path)) as journal:
                for record in journal.read():
                    found.append(record)
        except (JournalError, StorageFull) as error:
            check_words(error.message)
            assert path.read_bytes() == file.data, "a file that was refused was written to"
            assert not file.wal or wal_path.read_bytes() == file.wal, "a WAL that was refused was written to"
            return False
        if not file.forged:
            bodies = tuple(map(records.encode, found))  # a WAL with every page may be another run's
            assert any(bodies == journal_of(seed)[: len(found)] for seed in range(_RUNS)), (
                "records were changed, and taken"
            )
        return True

    return check


def mutate_wal(rng: Random, data: bytes, other: bytes) -> bytes:
    """Damage a WAL, and sometimes recompute the checksum of its header."""
    out = bytearray(_damaged(rng, data, other, 4_120))
    if rng.random() < 0.5 and len(out) > 32:
        out[8:12] = rng.choice((0, 1, 4, 8, 512, 4_096, 65_536, (1 << 32) - 1)).to_bytes(4, "big")
        order = ">" if out[3] & 1 else "<"
        sums = [0, 0]
        words = struct.unpack(f"{order}6I", out[:24])
        for first, second in zip(words[::2], words[1::2], strict=True):
            sums[0] = (sums[0] + first + sums[1]) & 0xFFFFFFFF
            sums[1] = (sums[1] + second + sums[0]) & 0xFFFFFFFF
        out[24:32] = struct.pack(">2I", *sums)
    return bytes(out)


def start_wal(folder: Path) -> Check:
    path = folder / "run.rota-wal"

    def check(data: bytes) -> bool:
        path.write_bytes(data)
        return not wal.find_damage(path)

    return check


# --- models -------------------------------------------------------------------------------------------------------

_TOML = st.sampled_from(
    (
        b'threads = 2\ngraph_level = "basic"\noutputs = ["y"]\nallow_cpu_nodes = true\n[[shapes]]\nx = [1, 8]\n',
        b"threads = 1\n",
        b'task = "generate"\n[generate]\ncontext = 64\ntokenizer = "t.json"\nstop_tokens = [2]\n',
        b'task = "classify"\n[text]\ntokenizer = "t.json"\nbuckets = [8, 16]\nlabels = ["a", "b"]\n',
        b'outputs = ["label", "\\u00e9"]\nshapes = [{audio = [1, 16000], "b c" = []}, {audio = [1, 8]}]\n',
        b"",
    )
)
_TOML_PARTS = (b"9" * 5_000, b"[" * 3_000, b"{a=" * 2_000, b"1979-05-27T07:32:00Z", b"0x7f", b"inf", b"nan", b'"""',
               b"a.b.c", b"threads", b"[[x]]", b"\\ud800", b"1_0", b"-1", b"\r\n")  # fmt: skip


def mutate_toml(rng: Random, text: bytes, other: bytes) -> bytes:
    if rng.random() < 0.5:
        return mutate_bytes(rng, text, other)
    at = rng.randint(0, len(text))
    end = min(len(text), at + rng.choice((0, 1, 5)))
    return text[:at] + rng.choice(_TOML_PARTS) + text[end:]


def check_toml(text: bytes) -> bool:
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        return False  # the repository's part
    try:
        found = parse_settings(decoded, "model.toml")
    except CodeError as error:
        check_words(error.message)
        return False
    assert found.threads is None or 1 <= found.threads <= 256
    assert all(type(extent) is int for one in found.shapes for shape in one.values() for extent in shape)
    return True


@cache
def manifest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return (_repository(Path(folder)).show("m").folder / MANIFEST_FILE).read_bytes()


def _repository(folder: Path) -> Repository:
    source = folder / "source"
    source.mkdir()
    (source / "model.onnx").write_bytes(SMALLEST_MODEL)
    (source / "weights.bin").write_bytes(bytes(100))
    (source / "model.toml").write_bytes(b"threads = 2\n")
    repository = Repository(folder / "models")
    repository.add(source, "m")
    return repository


def start_repository(folder: Path) -> Check:
    """A repository with one model whose manifest or files were changed."""
    repository = _repository(folder)
    path = repository.show("m").folder / MANIFEST_FILE

    def check(text: bytes) -> bool:
        path.unlink()
        path.write_bytes(text)
        try:
            entry = repository.show("m")
            assert repository.list() == (entry,) == (repository.find(entry.digest),)
            entry.check()
            entry.settings()
        except CodeError as error:
            check_words(error.message)
            return False
        assert all((entry.folder / file.path).resolve().is_relative_to(entry.folder.resolve()) for file in entry.files)
        return True

    return check


# --- endpoints and modules ----------------------------------------------------------------------------------------

_ADDRESSES = st.builds(
    "tcp://{}:{}".format, st.sampled_from(("127.0.0.1", "localhost", "127.1.2.3")), st.integers(1, 65_535)
)
ENDPOINTS = st.tuples(_ADDRESSES, _ADDRESSES, _ADDRESSES, _ADDRESSES).map(
    lambda four: json.dumps(Endpoints(*four)._asdict()).encode()
)


def start_endpoints(folder: Path) -> Check:
    def check(text: bytes) -> bool:
        (folder / "endpoints.json").write_bytes(text)
        try:
            found = Endpoints.of(folder)
        except ConfigError as error:
            check_words(error.message)
            return False
        for address in found:
            assert address.isascii()
            assert 0 < int(address.rpartition(":")[2]) < 1 << 16, address
        return True

    return check


_TEXTS = (
    """(module (import "rota" "tensor_read" (func (param i32 i64 i32 i32) (result i32)))
    (memory (export "memory") 2 16) (global $g (mut i32) (i32.const -5))
    (func (export "rota_alloc") (param i32) (result i32) (i32.const 1024))
    (func (export "rota_step") (param i32 i32) (result i64) (i64.const 0)) (func (export "_initialize")))""",
    """(module (memory (export "memory") 1) (func (export "rota_alloc") (param i32) (result i32) (i32.const 8))
    (func (export "rota_call") (param i32 i32) (result i64) (i64.const 0)))""",
    """(module (type $p (func (param i32 f64 v128) (result externref i64))) (import "m" "t" (table 1 10 funcref))
    (table (export "table") 3 externref) (memory 1 2) (global (export "c") f64 (f64.const 1.5))
    (global i32 (i32.add (i32.const 1) (i32.const -70000))) (global v128 (v128.const i32x4 1 2 3 4))
    (global funcref (ref.func $two)) (tag (export "thrown") (param i32))
    (func $two (export "two") (type $p) unreachable) (func $begin) (start $begin)
    (elem (i32.const 0) func $two) (data "abc"))""",
)


@cache
def module(at: int) -> bytes:
    return bytes(wasmtime.wat2wasm(_TEXTS[at]))


def mutate_module(rng: Random, data: bytes, other: bytes) -> bytes:
    """Damage bytes, or whole sections with corrected sizes."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data, other)
    sections = _sections(data)
    at = rng.randrange(len(sections))
    match rng.randrange(5):
        case 0:
            del sections[at]
        case 1:
            sections.insert(rng.randrange(len(sections)), sections.pop(at))
        case 2:
            sections.insert(at, rng.choice(_sections(other)))
        case 3:
            sections[at] = (rng.randrange(16), sections[at][1])
        case _:
            sections[at] = (sections[at][0], mutate_bytes(rng, sections[at][1], sections[at][1]))
    return data[:8] + b"".join(bytes([number]) + _leb(len(body)) + body for number, body in sections)


def _sections(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 8
    while at < len(data):
        number, size, shift = data[at], 0, 0
        while True:
            at += 1
            size |= (data[at] & 0x7F) << shift
            shift += 7
            if data[at] < 0x80:
                break
        found.append((number, data[at + 1 : at + 1 + size]))
        at += 1 + size
    return found


def _leb(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def check_module(data: bytes) -> bool:
    try:
        interface = inspect_module(data)
    except CodeError as error:
        check_words(error.message)
        return False
    for kind, exports in (("agent", {}), ("function", {}), ("function", {"call": "two", "alloc": "c"})):
        try:
            check_interface(interface, kind, exports)
        except CodeError as error:
            check_words(error.message)
    return True


def check_component_bytes(data: bytes) -> bool:
    try:
        check_component(inspect_component(data))
    except CodeError as error:
        check_words(error.message)
        return False
    return True


_COMPONENTS = [
    component_of("(module)"),
    *[bytes(wasmtime.wat2wasm(text)) for text in (
        '(component (import "wasi:cli/environment@0.2.0" (instance)) (import "b" (type (sub resource))))',
        '(component (core module $m) (export "a" (core module $m)) (import "c" (func)) (export "d" (func 0)))',
    )],
]  # fmt: skip

TARGETS = [
    Target("record", BODIES, mutate_msgpack, lambda _: check_record, bases=50, damaged=20,
           finds=(b"\x91" * 1_020 + b"\xc0", b"\x94\x01\x01\x00\xdc\x00\x00")),
    Target("journal-fold", SEEDS.map(journal_of), mutate_journal, lambda _: check_fold, bases=20, damaged=6,
           finds=((b"\x94\x01\x01\x00\x90", b"\x94\x0c" + b"\x91" * 1_018 + b"\xc0\x00\xc4\x00"),)),
    Target("run-file", RUN_FILES, mutate_run_file, start_run_file, bases=25, damaged=6),
    Target("run-file-wal", RUN_FILES.map(lambda file: file.wal).filter(bool), mutate_wal, start_wal, bases=10,
           damaged=6),
    Target("model-toml", _TOML, mutate_toml, lambda _: check_toml, damaged=20),
    Target("model-manifest", st.builds(manifest), mutate_json, start_repository, damaged=15),
    Target("endpoints-json", ENDPOINTS, mutate_json, start_endpoints, damaged=15),
    Target("wasm-module", st.integers(0, len(_TEXTS) - 1).map(module), mutate_module, lambda _: check_module, bases=40,
           damaged=20),
    Target("wasm-component", st.sampled_from(_COMPONENTS), mutate_module, lambda _: check_component_bytes, bases=40,
           damaged=20),
]  # fmt: skip
