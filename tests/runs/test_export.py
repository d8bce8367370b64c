"""Export and import: a byte-exact round trip; incomplete or foreign files are refused by name."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import stat
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy
import pytest
import run_kit
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from run_kit import Broker, bodies, counting, program, records_of, scripted, write_run
from smallest_model import SMALLEST_MODEL

from rota.broker import records
from rota.common.errors import CodeError, ConfigError, ConversationError, JournalError
from rota.common.messages import TaskRun
from rota.common.text_calls import ChatMessage, GenerateCall, encode_text_call
from rota.common.work import MODEL, Code
from rota.conversations.store import ConversationStore
from rota.gpu_worker.repository import Repository
from rota.host.endpoints import CONVERSATIONS, RunFolder
from rota.host.model_versions import MANIFEST_FILE
from rota.runs.archive import unpack
from rota.runs.export import export_run, import_run, read_needs
from rota.runs.open import open_run
from rota.tensors.store import TensorStore


@pytest.fixture
def full_run(tmp_path: Path) -> Path:
    """A run that names a module, a model and a tensor, all of them there, and unnamed files of each kind."""
    folder = tmp_path / "full"
    run = RunFolder(folder).prepare()
    source = tmp_path / "digits"
    (source / "data").mkdir(parents=True)
    (source / "model.onnx").write_bytes(SMALLEST_MODEL)
    (source / "model.toml").write_text("threads = 1\n", encoding="utf-8")
    (source / "data" / "weights").write_bytes(bytes(5_000))
    entry = Repository(run.models).add(source, "digits")
    Repository(run.models).add(source / "model.onnx", "other")
    store = TensorStore(run.tensors)
    ref = store.put(numpy.arange(2_000, dtype="int32"))
    store.put(numpy.arange(3))
    (run.modules / f"{'ab' * 32}.wasm").write_bytes(b"unnamed")
    broker = counting(3)
    producer = broker.producer("bob")
    producer.deploy("model:digits", Code(entry.digest, MODEL))
    broker.worker("gpu", pool="gpu")
    producer.submit_runs(TaskRun.of("counter/t", 0, (program(["add", 1]),), ((ref,),)))
    producer.submit_runs(TaskRun.of("model:digits", 0, (program(),), None))
    broker.run()
    return write_run(folder, records_of(broker))


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of an archive."""
    folder = tmp_path_factory.mktemp("archive")
    export_run(write_run(folder / "run", records_of(counting(2))), folder / "a.zip")
    return (folder / "a.zip").read_bytes()


def names_of(file: Path) -> list[str]:
    with zipfile.ZipFile(file) as archive:
        return archive.namelist()


def reseal(file: Path, data: bytes) -> None:
    """Write bytes as an archive whose seal fits: what a malicious sender can always do."""
    body = data[:-64]
    file.write_bytes(body + blake3(body).hexdigest().encode())


def rebuilt(file: Path, change: Callable[[list[tuple[zipfile.ZipInfo, bytes]]], None]) -> bytes:
    """Return the bytes of an archive with its members changed."""
    with zipfile.ZipFile(file) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    change(members)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = b"0" * 64
        for info, content in members:
            archive.writestr(info, content, compress_type=info.compress_type)
    return target.getvalue()


@pytest.mark.parametrize("parts", [False, True])
def test_what_goes_in_comes_out(full_run: Path, tmp_path: Path, parts: bool) -> None:
    """Goal: an import is the run that was exported. Method: export, import, compare records and lane digests; open the
    archive itself as a run; export the import and the archive again and get the same bytes.
    """
    file, again, third = tmp_path / "a.zip", tmp_path / "b.zip", tmp_path / "c.zip"
    packed = export_run(full_run, file, models=parts, tensors=parts)
    imported = import_run(file, tmp_path / "there")
    assert imported == packed
    assert bodies(tmp_path / "there" / "run.rota") == bodies(full_run / "run.rota")
    for name in (full_run, file, tmp_path / "there", tmp_path / "there" / "run.rota"):
        with open_run(name) as source:
            assert read_needs(source)[1] == packed.manifest.run
            assert (source.modules / f"{scripted.COUNTER.digest.hex()}.wasm").read_bytes() == b"counter"
    assert packed.manifest.run["lanes"][0]["retired"] == 8
    export_run(tmp_path / "there", again, models=parts, tensors=parts)
    export_run(file, third, models=parts, tensors=parts)
    assert again.read_bytes() == third.read_bytes() == file.read_bytes()


def talking_run(folder: Path) -> tuple[Path, dict[str, bytes]]:
    """A run with heads of conversations in a call, in other bytes as hex digits, and one that nothing names."""
    broker = counting(2)
    producer = broker.producer("bob")
    with ConversationStore(RunFolder(folder).prepare().conversations) as store:
        first = [ChatMessage("system", "be brief"), ChatMessage("user", "hello")]
        heads = {
            "called": store.append(None, first),
            "noted": store.append(None, [ChatMessage("user", "noted by an agent")]),
            "unnamed": store.append(None, [ChatMessage("user", "said elsewhere")]),
        }
    call = encode_text_call(GenerateCall(messages=(ChatMessage("user", "more"),), conversation=heads["called"]))
    producer.deploy("model:m", Code(bytes(32), MODEL))
    producer.submit_runs(TaskRun.of("model:m", 0, (call,), None))
    producer.submit("counter/a", program(["log", f"head {heads['noted'].hex()}"]))
    broker.run()
    return write_run(folder, records_of(broker)), heads


def test_conversations_that_are_named_travel(tmp_path: Path) -> None:
    """Goal: a dialogue goes on in another place, and others stay private. Method: heads in a call, in an agent's bytes
    and nowhere; export, import, export again.
    """
    folder, heads = talking_run(tmp_path / "run")
    file, again = tmp_path / "a.zip", tmp_path / "b.zip"
    packed = export_run(folder, file)
    assert CONVERSATIONS in names_of(file)
    assert packed.manifest.run["conversations"]["heads"] == 1
    assert not [one for one in packed.manifest.missing if one["kind"] == "conversation"]
    assert import_run(file, tmp_path / "there") == packed
    there = RunFolder(tmp_path / "there")
    assert stat.S_IMODE(there.conversations.stat().st_mode) == 0o600
    with ConversationStore(there.conversations) as store:
        assert [message.content for message in store.history(heads["called"])] == ["be brief", "hello"]
        assert store.history(heads["noted"])
        with pytest.raises(ConversationError):
            store.history(heads["unnamed"])
    export_run(there.root, again)
    assert again.read_bytes() == file.read_bytes()
    with open_run(file) as source, ConversationStore(source.part("x"), lender=source.conversations) as store:
        assert len(store.history(heads["called"])) == 2


@pytest.mark.parametrize("loss", ["store", "message"])
def test_conversations_that_are_missing_are_told(tmp_path: Path, loss: str) -> None:
    """Goal: an archive says what it lacks, and its import checks that. Method: lose the store, or one message of it;
    then a manifest that hides it.
    """
    folder, heads = talking_run(tmp_path / "run")
    file = tmp_path / "a.zip"
    if loss == "store":
        RunFolder(folder).conversations.unlink()
    else:
        with closing(sqlite3.connect(RunFolder(folder).conversations)) as connection, connection:
            connection.execute("DELETE FROM blobs WHERE instr(data, 'be brief')")
    packed = export_run(folder, file)
    (missing,) = packed.manifest.missing[1:]
    assert missing == {"kind": "conversation", "digest": heads["called"].hex(), "why": "not there", "count": "1"}
    assert import_run(file, tmp_path / "there").manifest.missing == packed.manifest.missing

    def hide(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        info, text = members[-1]
        value = json.loads(text)
        value["missing"] = value["missing"][:1]
        members[-1] = info, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    reseal(file, rebuilt(file, hide))
    with pytest.raises(JournalError, match=r"says something else of the run .*\(missing\)"):
        import_run(file, tmp_path / "other")


def test_a_run_whose_first_records_were_cut(full_run: Path, tmp_path: Path) -> None:
    """Goal: a snapshot stands for the records before it, and names what they named. Method: cut the records that deploy
    the module, the model and stamp the task with the tensor; pack the rest, import it, compare with the whole run.
    """
    with open_run(full_run) as source:
        whole = [record for _, record in source.records()]
    deployed = [place for place, record in enumerate(whole) if isinstance(record, records.Deployed)]
    stamped = [
        place for place, record in enumerate(whole) if isinstance(record, records.Submitted) and record.runs[0].tensors
    ]
    for cut_after in (deployed[-1] + 1, stamped[0] + 1):
        folder = write_run(tmp_path / f"cut{cut_after}", whole, cut_after=cut_after)
        for part in ("models", "tensors"):
            shutil.rmtree(folder / part)
            shutil.copytree(full_run / part, folder / part)
        with open_run(folder) as source:
            assert source.extent()[:2] == (cut_after + 1, len(whole) + 1)
            assert [record for _, record in source.records()][1:] == whole[cut_after:]
            assert next(source.records())[0] == cut_after + 1
            assert source.begin().boot == 1
        packed = export_run(folder, tmp_path / f"{cut_after}.zip", models=True, tensors=True)
        assert packed.manifest.missing == []
        assert packed.manifest.run["first_record"] == cut_after + 1
        assert len(packed.manifest.run["tensors"]) == len(packed.manifest.run["models"]) == 1
        imported = import_run(tmp_path / f"{cut_after}.zip", tmp_path / f"there{cut_after}")
        with open_run(full_run) as source:
            assert imported.manifest.run["lanes"] == read_needs(source)[1]["lanes"]


def test_only_what_the_run_names_is_packed(full_run: Path, tmp_path: Path) -> None:
    """Goal: nothing else leaves the host, and what is left out is told. Method: look at members and `missing`."""
    packed = export_run(full_run, tmp_path / "a.zip", models=True, tensors=True)
    names = names_of(tmp_path / "a.zip")
    assert names[:4] == [
        f"models/digits/1/{name}" for name in ("data/weights", "model.onnx", "model.toml", MANIFEST_FILE)
    ]
    assert [name.split("/")[0] for name in names[4:]] == ["modules", "run.rota", "tensors", "manifest.json"]
    assert packed.manifest.missing == []
    packed = export_run(full_run, tmp_path / "b.zip")
    assert [(one["kind"], one["why"]) for one in packed.manifest.missing] == [
        ("model", "not packed"),
        ("tensor", "not packed"),
    ]
    shutil.rmtree(full_run / "models")
    shutil.rmtree(full_run / "modules")
    packed = export_run(full_run / "run.rota", tmp_path / "c.zip", models=True, tensors=True)
    assert [(one["kind"], one["why"]) for one in packed.manifest.missing] == [
        ("module", "not there"),
        ("model", "not there"),
    ]


def test_an_import_is_a_run_folder(full_run: Path, tmp_path: Path) -> None:
    """Goal: a broker and workers can go on in it. Method: its parts, rights, models and tensors."""
    export_run(full_run, tmp_path / "a.zip", models=True, tensors=True)
    folder = tmp_path / "new" / "there"
    import_run(tmp_path / "a.zip", folder)
    run = RunFolder(folder)
    for part in (run.modules, run.artefacts, run.models, run.tensors, run.logs, run.sockets):
        assert part.is_dir()
    assert os.access(run.journal, os.W_OK)
    Repository(run.models).show("digits").check()
    with open_run(folder) as source:
        (digest,) = read_needs(source)[0].tensors
        refs = [ref for _, record in source.records() for ref in records.named_tensors(record)]
    assert refs[0].digest == digest
    assert TensorStore(run.tensors).open(refs[0], verify=True)[1_999] == 1_999
    if sys.platform != "win32":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(path.name for path in folder.parent.iterdir()) == ["there"]


def test_nothing_is_overwritten(full_run: Path, tmp_path: Path) -> None:
    """Goal: neither an archive nor a run is lost. Method: export and import onto what is there."""
    file = tmp_path / "a.zip"
    export_run(full_run, file)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="is there already"):
        export_run(full_run, file)
    assert file.read_bytes() == before
    for taken in (full_run, file):
        with pytest.raises(ConfigError, match="is there already"):
            import_run(file, taken)
    (tmp_path / "empty").mkdir()
    import_run(file, tmp_path / "empty")
    with pytest.raises(ConfigError, match="is not there"):
        import_run(tmp_path / "nowhere", tmp_path / "x")
    with pytest.raises(ConfigError, match="is not there"):
        export_run(full_run, tmp_path / "nowhere" / "a.zip")


def test_a_flipped_byte_anywhere_is_refused(full_run: Path, tmp_path: Path) -> None:
    """Goal: no altered archive is taken for a run. Method: flip bytes all over the file, each header and the end of the
    zip among them, and cut it at many lengths; each is refused, and no folder appears.
    """
    file, changed, folder = tmp_path / "a.zip", tmp_path / "changed.zip", tmp_path / "there"
    export_run(full_run, file, models=True, tensors=True)
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        headers = [info.header_offset + byte for info in archive.infolist() for byte in range(0, 60, 3)]
        directory = archive.start_dir
    places = sorted({*headers, *range(4, len(whole), 197), *range(directory, len(whole), 5), len(whole) - 1})
    told: dict[str, int] = {}
    for place in places:
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x20]) + whole[place + 1 :])
        with pytest.raises(JournalError, match="is not an archive that can be used") as caught:
            import_run(changed, folder)
        what = caught.value.message.split("used: ")[1].split(":")[0]
        told[what] = told.get(what, 0) + 1
    for length in range(4, len(whole), 499):
        changed.write_bytes(whole[:length])
        with pytest.raises(JournalError, match="not an archive"):
            import_run(changed, folder)
    assert len(places) > 300
    assert told["run.rota was altered"] > 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "changed.zip", "digits", "full"]


@pytest.mark.parametrize(
    "name",
    ["../evil", "/etc/evil", "models/../../evil", "models/a/1/../x", "models/a/1/.hidden", "run.rota\\x", "other.txt",
     "modules/" + "AB" * 32 + ".wasm", "modules/" + "cd" * 32 + ".wasm", "tensors/00/00/" + "12" * 32 + ".npy",
     "models/a/1/c:x", "models/./1/x", "sockets/frontend.sock", ".rota", "models/a/0/x"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(full_run: Path, tmp_path: Path, name: str) -> None:
    """Goal: an import writes into its own folder only. Method: give a member an unsafe name, in zip and manifest, with
    all digests and the seal right.
    """
    file = tmp_path / "a.zip"
    export_run(full_run, file)
    module = f"modules/{scripted.COUNTER.digest.hex()}.wasm"

    def rename(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
        for place, (info, content) in enumerate(members):
            if info.filename == module:
                info.filename = name
            if info.filename == "manifest.json":
                members[place] = (info, content.replace(module.encode(), name.replace("\\", "\\\\").encode()))

    reseal(file, rebuilt(file, rename))
    with pytest.raises(JournalError, match=r"is no file of a run|is none that"):
        import_run(file, tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "digits", "full"]


def _compress(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members[0][0].compress_type = zipfile.ZIP_DEFLATED


def _link(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members[0][0].external_attr = (stat.S_IFLNK | 0o777) << 16


def _drop(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    del members[0]


def _add(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members.insert(0, (zipfile.ZipInfo("modules/" + "00" * 32 + ".wasm"), b""))
    members[0][0].external_attr = members[1][0].external_attr


def _alter(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members[0] = (members[0][0], members[0][1][:-1] + b"?")


def _longer(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members[0] = (members[0][0], members[0][1] + bytes(1_000))


def _other_digest(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    info, content = members[-1]
    place = content.index(b'"digest": "') + 11
    members[-1] = (info, content[:place] + b"0" * 64 + content[place + 64 :])


def _other_format(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members[-1] = (members[-1][0], members[-1][1].replace(b'"format": 3', b'"format": 4'))


def _missing_text(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members[-1] = (members[-1][0], members[-1][1].replace(b'"missing": [', b'"missing": ["x",'))


def _no_json(members: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    members[-1] = (members[-1][0], b"[" * 100_000)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_compress, "is none that `rota export` makes"),
        (_link, "is none that `rota export` makes"),
        (_drop, "is missing"),
        (_add, "is not the one that its manifest.json names"),
        (_alter, "was altered"),
        (_longer, "is not the one that its manifest.json names"),
        (_other_digest, "says something else of the run"),
        (_other_format, "archive format 4"),
        (_no_json, "cannot be read"),
        (_missing_text, "cannot be read"),
        (lambda members: members.pop(), "without manifest.json"),
        (lambda members: members.append(members[0]), "without manifest.json"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_do_not_fit_are_refused(full_run: Path, tmp_path: Path, change: Any, told: str) -> None:
    """Goal: what the manifest says is what is there. Method: change members and make the seal fit again."""
    file = tmp_path / "a.zip"
    export_run(full_run, file)
    reseal(file, rebuilt(file, change))
    with pytest.raises(JournalError, match=told):
        import_run(file, tmp_path / "there")
    assert not (tmp_path / "there").exists()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_no_sealed_bytes_get_past_the_checks(
    sealed: bytes, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    """Goal: whatever a sender seals is imported as a run or refused by name, and a refusal leaves nothing. Method:
    change bytes of headers, directory and manifest, make the seal fit, import.
    """
    folder = tmp_path_factory.mktemp("sealed")
    changed = bytearray(sealed[:-64])
    with zipfile.ZipFile(io.BytesIO(sealed)) as archive:
        starts = [info.header_offset for info in archive.infolist()] + [archive.start_dir]
    for start, shift, byte in data.draw(
        st.lists(st.tuples(st.sampled_from(starts), st.integers(0, 200), st.binary(max_size=3)), min_size=1, max_size=4)
    ):
        changed[start + shift : start + shift + 1] = byte
    (folder / "a.zip").write_bytes(changed + blake3(changed).hexdigest().encode())
    try:
        import_run(folder / "a.zip", folder / "there")
    except JournalError:
        assert [path.name for path in folder.iterdir()] == ["a.zip"]


def test_a_zip_of_somebody_else_is_refused(full_run: Path, tmp_path: Path) -> None:
    """Goal: a plain zip, or an archive that another program packed again, is not taken. Method: make both."""
    file = tmp_path / "a.zip"
    export_run(full_run, file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "b.zip", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    with pytest.raises(JournalError, match="packed again"), open_run(tmp_path / "b.zip"):
        pass
    (tmp_path / "out").mkdir()
    (tmp_path / "short.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(JournalError, match="ends too early"):
        unpack(tmp_path / "short.zip", tmp_path / "out")


def test_damaged_files_are_not_packed(full_run: Path, tmp_path: Path) -> None:
    """Goal: an export never spreads damage. Method: change a module, a model file, and the journal in turn."""
    module = full_run / "modules" / f"{scripted.COUNTER.digest.hex()}.wasm"
    module.write_bytes(b"Counter")
    with pytest.raises(ConfigError, match="is damaged") as caught:
        export_run(full_run, tmp_path / "a.zip")
    assert str(module) in str(caught.value)
    module.write_bytes(b"counter")
    weights = full_run / "models" / "digits" / "1" / "data" / "weights"
    weights.chmod(0o644)
    weights.write_bytes(bytes(4_999) + b"x")
    with pytest.raises(CodeError, match="is damaged"):
        export_run(full_run, tmp_path / "a.zip", models=True)
    broken = run_kit.write_run(tmp_path / "broken", [*records_of(counting(2)), records.Epoch(7, 0, ())])
    with pytest.raises(JournalError, match="epoch 7 follows epoch 1") as refused:
        export_run(broken, tmp_path / "a.zip")
    assert str(broken) in str(refused.value)
    assert not (tmp_path / "a.zip").exists()


def test_progress_is_told(full_run: Path, tmp_path: Path) -> None:
    """Goal: long work says how far it is. Method: collect what is told; bytes end at their total."""
    told: list[tuple[str, int, int | None]] = []
    export_run(full_run, tmp_path / "a.zip", progress=lambda *step: told.append(step))
    import_run(tmp_path / "a.zip", tmp_path / "there", progress=lambda *step: told.append(step))
    for what in ("bytes packed", "bytes unpacked"):
        done = [step for step in told if step[0] == what]
        assert done[-1][1] == done[-1][2] == (full_run / "run.rota").stat().st_size + len(b"counter")


def test_the_code_of_a_call_that_goes_on_is_needed(tmp_path: Path) -> None:
    """Goal: a call runs on the code that it began with, also after another deploy and a compaction. Method: a call that
    waits, its name bound to other code, and the records up to there cut; what the run needs.
    """
    broker = Broker()
    alice = broker.producer()
    alice.deploy("counter")
    alice.deploy("order", scripted.FLOW)
    broker.worker()
    alice.submit("order", program(["await", [["ask", "counter/a", [["postpone"]]]], 1]), kind="ask")
    broker.run()
    alice.deploy("order", scripted.COUNTER)
    found = records_of(broker)
    path = write_run(tmp_path / "cut", found, cut_after=len(found))
    with open_run(path) as source:
        needs, _ = read_needs(source)
    assert scripted.FLOW.digest in needs.modules
