"""The model repository: versions by content, refusals, and damaged files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rota.common.errors import CodeError
from rota.gpu_worker.repository import MANIFEST_FILE, ModelFile, Repository, _digest_of_files


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model folder with files beside the model. The repository never looks inside the files."""
    folder = tmp_path / "source"
    (folder / "extra").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "extra" / "weights.bin").write_bytes(bytes(3 << 20))
    (folder / ".hidden").write_bytes(b"not part of it")
    return folder


def test_same_content_is_the_same_version(tmp_path: Path, source: Path) -> None:
    """Goal: a version is a content. Method: add, add again from a copy elsewhere, change, add, go back, add."""
    repository = Repository(tmp_path / "models")
    first = repository.add(source, "m")
    assert (first.version, [file.path for file in first.files]) == (1, ["extra/weights.bin", "model.onnx"])
    assert first.size_bytes == 5 + (3 << 20)
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
    assert [child.name for child in sorted((tmp_path / "models").iterdir())] == ["m", "other"]


def test_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    """Goal: the digest is pinned, whatever the file system does. Method: a golden value for one small model, and a
    rename that must change it."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "a").write_bytes(b"")
    repository = Repository(tmp_path / "models")
    entry = repository.add(folder, "m")
    assert entry.digest.hex() == "de016d052524cb1ccd685a4318515eec5755edb5b0792c6faf39a5f26a96aabc"
    (folder / "a").rename(folder / "b")
    assert repository.add(folder, "m").version == 2


def test_a_single_file_becomes_the_model(tmp_path: Path) -> None:
    """Goal: `model add FILE` needs no folder. Method: a file of another name."""
    file = tmp_path / "anything.onnx"
    file.write_bytes(b"model")
    entry = Repository(tmp_path / "models").add(file, "m")
    assert entry.model_path.read_bytes() == b"model"
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
    assert list((tmp_path / "models").iterdir()) == []


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
