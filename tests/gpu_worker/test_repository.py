"""The model repository: versions by content, refusals, and damaged files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from smallest_model import SMALLEST_MODEL

from rota.common.errors import CodeError
from rota.gpu_worker.certificate_store import CertificateStore
from rota.gpu_worker.repository import (
    ModelEntry,
    ModelFile,
    Repository,
    _digest_of_files,
    _manifest_of,
    parse_reference,
)
from rota.host.model_versions import MANIFEST_FILE


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model folder with files beside the model."""
    folder = tmp_path / "source"
    (folder / "extra").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(SMALLEST_MODEL)
    (folder / "extra" / "weights.bin").write_bytes(bytes(3 << 20))
    (folder / ".hidden").write_bytes(b"not part of it")
    return folder


def test_same_content_is_the_same_version(tmp_path: Path, source: Path) -> None:
    """Goal: a version is a content. Method: add, add again from a copy elsewhere, change, add, go back, add."""
    repository = Repository(tmp_path / "models")
    first = repository.add(source, "m")
    assert (first.version, [file.path for file in first.files]) == (1, ["extra/weights.bin", "model.onnx"])
    assert first.size_bytes == len(SMALLEST_MODEL) + (3 << 20)
    assert repository.add(source, "m") == first
    assert repository.add(first.folder, "m") == first  # a version, manifest and all, is a source too
    (source / "extra" / "weights.bin").write_bytes(b"other")
    second = repository.add(source, "m")
    assert second.version == 2
    assert second.digest != first.digest
    assert repository.add(source, "other").digest == second.digest
    assert [(entry.name, entry.version) for entry in repository.list()] == [("m", 1), ("m", 2), ("other", 1)]
    assert repository.show("m") == second
    assert repository.show("m", 1) == first == repository.find(first.digest)
    assert [child.name for child in sorted((tmp_path / "models").iterdir())] == [".lock", "m", "other"]


def test_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    """Goal: the digest is pinned, whatever the file system does. Method: a golden value for one small model, and a
    rename that must change it."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(SMALLEST_MODEL)
    (folder / "a").write_bytes(b"")
    repository = Repository(tmp_path / "models")
    entry = repository.add(folder, "m")
    assert entry.digest.hex() == "d34f978dba9bd73480e7cf88bbe486393592b6507c63ab4b3ef17dbaa5d263be"
    (folder / "a").rename(folder / "b")
    assert repository.add(folder, "m").version == 2


def test_a_single_file_becomes_the_model(tmp_path: Path) -> None:
    """Goal: `model add FILE` needs no folder. Method: a file of another name."""
    file = tmp_path / "anything.onnx"
    file.write_bytes(SMALLEST_MODEL)
    entry = Repository(tmp_path / "models").add(file, "m")
    assert entry.model_path.read_bytes() == SMALLEST_MODEL
    assert entry.settings().graph_level == "all"
    entry.check()


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "a b", "x" * 65])
def test_names_that_could_leave_the_folder_are_refused(tmp_path: Path, source: Path, name: str) -> None:
    """Goal: a name is one plain folder name. Method: the classics; nothing may be written."""
    repository = Repository(tmp_path / "models")
    with pytest.raises(CodeError, match="cannot name a model"):
        repository.add(source, name)
    with pytest.raises(CodeError, match="there is no model"):
        repository.show(name)
    assert not (tmp_path / "models").exists()


def test_sources_that_are_no_model_are_refused(tmp_path: Path, source: Path) -> None:
    """Goal: what cannot be used is refused with its name, and leaves nothing behind. Method: one case each."""
    repository = Repository(tmp_path / "models")
    cases: dict[str, Any] = {
        "unknown key 'thread'": lambda: (source / "model.toml").write_text("thread = 1"),
        "threads must be a whole number": lambda: (source / "model.toml").write_text("threads = true"),
        "is no TOML": lambda: (source / "model.toml").write_text("threads = "),
        "is no TOML: Exceeds": lambda: (source / "model.toml").write_text("threads = " + "9" * 5_000),
        "is no TOML: maximum": lambda: (source / "model.toml").write_text("a = " + "[" * 9_000 + "]" * 9_000),
        "an integer of 40000 bits": lambda: (source / "model.toml").write_text("threads = 0x" + "f" * 10_000),
        "has no model.onnx": (source / "model.onnx").unlink,
    }
    with pytest.raises(CodeError, match="is neither a file nor a folder"):
        repository.add(tmp_path / "absent", "m")
    for words, spoil in cases.items():
        spoil()
        with pytest.raises(CodeError, match=words):
            repository.add(source, "m")
    assert repository.list() == ()
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_a_file_outside_is_not_brought_in_by_a_link(tmp_path: Path, source: Path) -> None:
    """Goal: what is not in the folder does not become part of a model. Method: a link to a file outside, absolute,
    relative and through a second link; then links that stay inside.
    """
    repository = Repository(tmp_path / "models")
    (tmp_path / "secret").write_bytes(b"secret")
    (source / "inner").symlink_to("extra/weights.bin")
    for target in (tmp_path / "secret", "../secret", "extra/second"):
        (source / "extra" / "second").unlink(missing_ok=True)
        (source / "extra" / "second").symlink_to(tmp_path / "secret")
        (source / "w.bin").symlink_to(target)
        with pytest.raises(CodeError, match=r"is a link to .*secret, which is outside"):
            repository.add(source, "m")
        (source / "w.bin").unlink()
    (source / "extra" / "second").unlink()
    assert repository.list() == ()
    entry = repository.add(source, "m")
    assert (entry.folder / "inner").read_bytes() == bytes(3 << 20)
    assert not (entry.folder / "inner").is_symlink()
    linked = tmp_path / "linked"
    linked.symlink_to(source)  # what was named is followed, as every command does
    assert repository.add(linked, "m") == entry


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_out_of_the_folder_are_refused(tmp_path: Path, source: Path) -> None:
    """Goal: a linked folder or a dead link is named, not followed or skipped."""
    (source / "linked").symlink_to(tmp_path)
    with pytest.raises(CodeError, match="linked is neither a file nor a folder of its own"):
        Repository(tmp_path / "models").add(source, "m")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
@pytest.mark.parametrize("way", ["link", "path"])
def test_a_version_that_reaches_out_of_its_folder_is_refused(tmp_path: Path, source: Path, way: str) -> None:
    """Goal: who hands over a run folder cannot have files of the host loaded or packed. Method: a file with the right
    content elsewhere, and a link to it, or a path to it in a manifest that fits in all else.
    """
    repository = Repository(tmp_path / "models")
    entry = repository.add(source, "m")
    (tmp_path / "weights.bin").write_bytes(bytes(3 << 20))
    if way == "link":
        weights = entry.folder / "extra" / "weights.bin"
        weights.unlink()
        weights.symlink_to(tmp_path / "weights.bin")
    else:
        manifest = json.loads((entry.folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        files = [[path.replace("extra/", "../../../"), *rest] for path, *rest in manifest["files"]]
        found = tuple(ModelFile(path, size, bytes.fromhex(text)) for path, size, text in files)
        manifest |= {"files": files, "digest": _digest_of_files(found).hex()}
        (entry.folder / MANIFEST_FILE).unlink()
        (entry.folder / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(CodeError, match=r"weights.bin leads out of the model's folder"):
        repository.show("m").check()


def test_damage_is_found_and_named(tmp_path: Path, source: Path) -> None:
    """Goal: `check` names the file that is not what was added. Method: one flipped byte, then no file at all."""
    entry = Repository(tmp_path / "models").add(source, "m")
    entry.check()
    file = entry.folder / "extra" / "weights.bin"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[1 << 20] ^= 1
    file.write_bytes(data)
    with pytest.raises(CodeError, match=r"weights\.bin is damaged"):
        entry.check()
    file.unlink()
    with pytest.raises(CodeError, match=r"weights\.bin cannot be read"):
        entry.check()


ODD_MANIFESTS = {
    "deep": "[" * 100_000,
    "infinite": '{"format": 1, "files": [["a", Infinity, ""]]}',
    "surrogate": '{"format": 1, "name": "m", "version": 1, "digest": "%s", "files": [["\\ud800", 1, "%s"]]}'
    % (("00" * 32,) * 2),
}


@pytest.mark.parametrize("spoil", ["{", "[]", '{"format": 2}', "other name", "other digest", *ODD_MANIFESTS])
def test_a_manifest_that_is_not_ours_is_refused(tmp_path: Path, source: Path, spoil: str) -> None:
    """Goal: a torn, foreign or edited manifest is an error that names it. Method: one of each."""
    repository = Repository(tmp_path / "models")
    entry = repository.add(source, "m")
    path = entry.folder / MANIFEST_FILE
    manifest = json.loads(path.read_text())
    if spoil.startswith("other"):
        key = spoil.removeprefix("other ")
        manifest[key] = {"name": "n", "digest": "00" * 32}[key]
        spoil = json.dumps(manifest)
    path.write_text(ODD_MANIFESTS.get(spoil, spoil))
    with pytest.raises(CodeError, match=MANIFEST_FILE):
        repository.find(entry.digest)


def test_settings_come_from_the_models_own_file(tmp_path: Path, source: Path) -> None:
    """Goal: every key of model.toml arrives. Method: all of them in one file."""
    (source / "model.toml").write_text(
        'threads = 2\ngraph_level = "basic"\noutputs = ["y"]\nallow_cpu_nodes = true\n[[shapes]]\nx = [1, 8]\n'
    )
    settings = Repository(tmp_path / "models").add(source, "m").settings()
    assert (settings.threads, settings.graph_level, settings.outputs) == (2, "basic", ("y",))
    assert (settings.allow_cpu_nodes, settings.shapes) == (True, ({"x": (1, 8)},))


# --- names, versions and removal --------------------------------------------------------------------------------------


def test_the_number_of_a_removed_version_is_not_given_again(tmp_path: Path, source: Path) -> None:
    """Goal: NAME@VERSION means one content for ever. Method: remove the newest version, then the only one, and add."""
    repository = Repository(tmp_path / "models")
    first = repository.add(source, "m")
    (source / "extra" / "weights.bin").write_bytes(b"other")
    assert repository.add(source, "m").version == 2
    repository.remove("m", 2)
    assert [entry.version for entry in repository.list()] == [1]
    assert repository.add(source, "m").version == 3
    repository.remove("m", 1)
    repository.remove("m", 3)
    assert repository.list() == ()
    assert repository.add(source, "m").version == 4
    assert repository.add(source, "other").version == 1
    with pytest.raises(CodeError, match=r"there is no version 1 of model 'm' in .*; `rota model ls` lists them"):
        repository.remove("m", 1)
    assert not first.folder.exists()


def test_a_version_that_nobody_could_use_is_taken_back(tmp_path: Path, source: Path) -> None:
    """Goal: an add that fails at its deploy leaves nothing and uses up no number."""
    repository = Repository(tmp_path / "models")
    repository.withdraw(repository.add(source, "m"))
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]
    assert repository.add(source, "m").version == 1
    (source / "extra" / "weights.bin").write_bytes(b"other")
    repository.withdraw(repository.add(source, "m"))
    assert [entry.version for entry in repository.list()] == [1]
    assert repository.add(source, "m").version == 2


def test_certificates_go_with_the_last_version_of_their_model(tmp_path: Path, source: Path) -> None:
    """Goal: nothing of a removed model stays. Method: the same content under two names, removed one by one."""
    repository = Repository(tmp_path / "models")
    digest = repository.add(source, "m").digest.hex()
    repository.add(source, "other")
    folder = tmp_path / "models" / ".certificates" / digest
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("{}", encoding="utf-8")
    repository.remove("m", 1)
    assert folder.exists()
    repository.remove("other", 1)
    assert not folder.exists()


def test_a_damaged_version_hurts_no_other_and_can_be_removed(tmp_path: Path, source: Path) -> None:
    """Goal: one bad manifest does not stop all models of a worker. Method: damage one of two models."""
    repository = Repository(tmp_path / "models")
    bad = repository.add(source, "bad")
    (source / "extra" / "weights.bin").write_bytes(b"other")
    good = repository.add(source, "good")
    (bad.folder / MANIFEST_FILE).unlink()
    (bad.folder / MANIFEST_FILE).write_text("{", encoding="utf-8")
    assert repository.find(good.digest) == good
    assert repository.list() == (good,)
    assert [type(entry).__name__ for entry in repository.entries()] == ["DamagedEntry", "ModelEntry"]
    with pytest.raises(CodeError, match=r"rota-manifest.json is not a manifest .*`rota model rm`"):
        repository.show("bad")
    repository.remove("bad", 1)
    assert list(repository.entries()) == [good]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders")
def test_pipes_in_place_of_files_are_not_waited_for(tmp_path: Path, source: Path) -> None:
    """Goal: nothing that lies in the folder stops a worker. Method: pipes for a graph, a manifest, a number and a
    certificate of another model.
    """
    repository = Repository(tmp_path / "models")
    good, graph, manifest = (repository.add(source, name) for name in ("good", "graph", "manifest"))
    certificate = CertificateStore(repository.root).path(good.digest.hex(), {})
    certificate.parent.mkdir(parents=True)
    for pipe in (
        graph.folder / "model.onnx", manifest.folder / MANIFEST_FILE, good.folder.parent / ".next", certificate
    ):  # fmt: skip
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
    assert [type(entry).__name__ for entry in repository.entries()] == ["ModelEntry", "ModelEntry", "DamagedEntry"]
    with pytest.raises(CodeError, match=r"rota-manifest.json cannot be read: it is no regular file"):
        repository.show("manifest")
    with pytest.raises(CodeError, match=r"model.onnx cannot be read \(it is no regular file\)"):
        repository.show("graph").check()
    assert CertificateStore(repository.root).get(good.digest.hex(), {}) is None
    (source / "extra" / "weights.bin").write_bytes(b"other")
    assert repository.add(source, "good").version == 2


def test_what_an_interrupted_add_left_is_removed(tmp_path: Path, source: Path) -> None:
    """Goal: an add that was killed leaves nothing for long, and one that runs is left alone. Method: kill a process in
    the middle of its copy; while another holds its scratch folder, add something else.
    """
    root = tmp_path / "models"
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from rota.gpu_worker import repository\n"
        "def stop(source, folder, name):\n"
        "    (folder / name).parent.mkdir(parents=True, exist_ok=True)\n"
        "    (folder / name).write_bytes(b'half')\n"
        "    print('copying', flush=True)\n"
        "    sys.stdin.read()\n"
        "repository.copy_file = stop\n"
        "repository.Repository(Path(sys.argv[1])).add(Path(sys.argv[2]), 'm')\n"
    )
    arguments = [sys.executable, "-c", program, str(root), str(source)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as adding:
        assert adding.stdout is not None
        assert adding.stdout.readline() == b"copying\n"
        repository = Repository(root)
        repository.add(source, "meanwhile")
        assert len([path for path in root.iterdir() if path.name.startswith(".adding-")]) == 2  # folder and lock
        adding.kill()
        adding.wait()
    repository.add(source, "afterwards")
    assert sorted(path.name for path in root.iterdir()) == [".lock", "afterwards", "meanwhile"]


@pytest.mark.parametrize(
    ("text", "found"), [("m", ("m", None)), ("m@2", ("m", 2)), ("model:m", ("m", None)), ("model:m.x@10", ("m.x", 10))]
)
def test_references_to_models(text: str, found: tuple[str, int | None]) -> None:
    """Goal: a model is named the same way everywhere."""
    assert parse_reference(text) == found


@pytest.mark.parametrize("text", ["", "@1", "m@", "m@0", "m@01", "m@x", "m@1@2", "a b", "m@1234567890", ".m", "../m"])
def test_texts_that_name_no_model(text: str) -> None:
    """Goal: what is no reference is refused by name."""
    with pytest.raises(CodeError, match="use NAME or NAME@VERSION"):
        parse_reference(text)


def test_a_thousand_versions_are_listed(tmp_path: Path) -> None:
    """Goal: a long history stays usable. Method: a thousand versions of a small model; list, find and add to them."""
    repository = Repository(tmp_path / "models")
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.onnx").write_bytes(SMALLEST_MODEL)
    first = repository.add(source, "m")
    for version in range(2, 1_001):  # the last steps of an add: without the disk's work of a thousand
        (source / "note").write_text(str(version), encoding="utf-8")
        note = ModelFile("note", len(str(version)), blake3(str(version).encode()).digest())
        files = (*first.files, note)
        folder = first.folder.with_name(str(version))
        folder.mkdir()
        entry = ModelEntry("m", version, _digest_of_files(files), files, folder)
        (folder / MANIFEST_FILE).write_text(json.dumps(_manifest_of(entry)), encoding="utf-8")
    assert len(repository.list()) == 1_000
    assert repository.find(first.digest) == first
    (source / "note").write_text("next", encoding="utf-8")
    assert repository.add(source, "m").version == 1_001


# --- what a model's folder must hold ----------------------------------------------------------------------------------

TOKENIZER = '{"model": {"type": "BPE"}}'
GENERATE = 'task = "generate"\n[generate]\ncontext = 8\ntokenizer = "t.json"\n'
CLASSIFY = 'task = "classify"\n[text]\ntokenizer = "t.json"\nlabels = "labels.json"\n'

# What is in the folder beside a good model, and what is said.
INCOMPLETE: dict[str, tuple[dict[str, str | bytes], list[str]]] = {
    "no model": ({"model.onnx": b"model"}, ["model.onnx cannot be used", "it has no outputs"]),
    "text": ({"model.onnx": b"not a model at all"}, ["model.onnx cannot be used", "it is no ONNX model"]),
    "an empty file": ({"model.onnx": b""}, ["model.onnx cannot be used", "it is empty"]),
    "an unknown input": ({"model.toml": "[[shapes]]\nz = [1]"}, ["model.toml: [[shapes]]", "no input 'z'", "'x'"]),
    "an unknown range": ({"model.toml": "[ranges]\nz = [0, 1]"}, ["model.toml: [ranges]", "no input 'z'", "'x'"]),
    "an unknown output": ({"model.toml": 'outputs = ["z"]'}, ["model.toml: outputs", "no output 'z'", "'y'"]),
    "no tokenizer": ({"model.toml": GENERATE}, ["generate.tokenizer names 't.json'", "no file of the model"]),
    "no template": (
        {"model.toml": GENERATE + 'template = "chat"', "t.json": TOKENIZER},
        ["generate.template names 'chat'", "no file of the model"],
    ),
    "a tokenizer of another kind": (
        {"model.toml": GENERATE, "t.json": '{"vocab": []}'},
        ["t.json is no tokenizer of the `tokenizers` library"],
    ),
    "a tokenizer that is no JSON": ({"model.toml": GENERATE, "t.json": "{"}, ["t.json is no JSON"]),
    "a template that is no text": (
        {"model.toml": GENERATE + 'template = "chat"', "t.json": TOKENIZER, "chat": b"\xff"},
        ["chat is not UTF-8 text"],
    ),
    "a huge template": (
        {"model.toml": GENERATE + 'template = "chat"', "t.json": TOKENIZER, "chat": bytes(2 << 20)},
        ["chat has 2097152 bytes", "at most 1048576"],
    ),
    "no labels": ({"model.toml": CLASSIFY, "t.json": TOKENIZER}, ["text.labels names 'labels.json'"]),
    "labels that are no list": (
        {"model.toml": CLASSIFY, "t.json": TOKENIZER, "labels.json": '{"a": 1}'},
        ["labels.json must hold a JSON list", "a map of 1"],
    ),
    "a label that is no text": (
        {"model.toml": CLASSIFY, "t.json": TOKENIZER, "labels.json": '["a", 1]'},
        ["labels.json must hold labels as texts, got 1"],
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_a_folder_that_makes_no_model_is_refused_with_what_it_lacks(tmp_path: Path, case: str) -> None:
    """Goal: what a user meets names the file, what was expected and what came, and nothing of it is left behind."""
    files, said = INCOMPLETE[case]
    source = tmp_path / "source"
    source.mkdir()
    for name, content in {"model.onnx": SMALLEST_MODEL, **files}.items():
        (source / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    repository = Repository(tmp_path / "models")
    with pytest.raises(CodeError) as caught:
        repository.add(source, "m")
    for words in said:
        assert words in caught.value.message
    assert [path.name for path in (tmp_path / "models").iterdir()] == [".lock"]
