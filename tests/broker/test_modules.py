"""broker/modules.py: what is kept, what a deploy needs, and what compaction leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
from wasmtime import wat2wasm

from rota.broker.modules import ModuleStore, programs
from rota.common.bundle import encode_bundle, new_bundle
from rota.common.digests import digest
from rota.common.errors import CodeError, NotKept
from rota.common.work import AGENT, COMMAND, COMPONENT, FUNCTION, MODEL, SOURCE, Code

PROGRAM = bytes(wat2wasm('(module (memory (export "memory") 1) (func (export "_start")))'))
SECRET = bytes(wat2wasm('(module (import "env" "get" (func)) (memory (export "memory") 1) (func (export "_start")))'))
COUNTER = (Path(__file__).resolve().parents[2] / "examples" / "agents" / "counter.wasm").read_bytes()
COMMAND_BUNDLE = encode_bundle(new_bundle(digest(PROGRAM), args=("-v",)))
SOURCE_BUNDLE = encode_bundle(new_bundle(digest(PROGRAM), entry="a.py", files={"a.py": b""}))


@pytest.fixture
def store(tmp_path: Path) -> ModuleStore:
    return ModuleStore(tmp_path)


def keep(store: ModuleStore, *data: bytes) -> None:
    for one in data:
        store.keep(digest(one), one)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_sent_is_kept_once_under_its_digest(store: ModuleStore, tmp_path: Path) -> None:
    """Goal: a file is what its name says. Method: a module and a bundle, again, and over a damaged file."""
    keep(store, PROGRAM, COMMAND_BUNDLE, COMMAND_BUNDLE)
    found = [f"{digest(PROGRAM).hex()}.wasm", f"{digest(COMMAND_BUNDLE).hex()}.bundle"]
    assert names(tmp_path) == sorted(found)
    (tmp_path / found[0]).write_bytes(b"\0asm damaged")
    keep(store, PROGRAM)
    assert (tmp_path / found[0]).read_bytes() == PROGRAM
    for data, named, said in (
        (PROGRAM, bytes(32), "not the one that was announced"),
        (b"text", digest(b"text"), "no WebAssembly module"),
        (b"\x96\x01", digest(b"\x96\x01"), "this is no bundle"),
    ):
        with pytest.raises(CodeError, match=said):
            store.keep(named, data)
    assert names(tmp_path) == sorted(found)


def test_a_deploy_is_told_what_is_missing(store: ModuleStore, tmp_path: Path) -> None:
    """Goal: a producer sends what the broker lacks and nothing else. Method: a bundle, its program, a damaged file."""
    code = Code(digest(COMMAND_BUNDLE), COMMAND)
    for missing in (COMMAND_BUNDLE, PROGRAM):
        with pytest.raises(NotKept) as found:
            store.admit("job", code)
        assert found.value.fields == {"missing": [digest(missing).hex()]}
        keep(store, missing)
    store.admit("job", code)
    (tmp_path / f"{digest(PROGRAM).hex()}.wasm").write_bytes(b"\0asm")
    with pytest.raises(NotKept):
        store.admit("job", code)
    store.bring("job", code, {digest(PROGRAM): lambda: PROGRAM})
    with pytest.raises(NotKept):
        store.bring("other", Code(bytes(32), AGENT), {digest(PROGRAM): lambda: PROGRAM})
    store.admit("model:m", Code(bytes(32), MODEL))


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        (COMMAND_BUNDLE, Code(digest(COMMAND_BUNDLE), COMMAND, reuse=True), "reuse is not for kind command"),
        (PROGRAM, Code(digest(PROGRAM), AGENT, reuse=True, flow=True), "reuse is not for a flow"),
        (COMMAND_BUNDLE, Code(digest(COMMAND_BUNDLE), COMMAND, exports=(("call", "x"),)), "no role of kind command"),
        (SOURCE_BUNDLE, Code(digest(SOURCE_BUNDLE), SOURCE, exports=(("call", "x"),)), "fixed export names"),
        (COMMAND_BUNDLE, Code(digest(COMMAND_BUNDLE), SOURCE), "a bundle of kind source names its main file"),
        (SOURCE_BUNDLE, Code(digest(SOURCE_BUNDLE), COMMAND), "a bundle of kind command has no entry"),
        (PROGRAM, Code(digest(PROGRAM), AGENT), "no export 'rota_alloc'"),
        (PROGRAM, Code(digest(PROGRAM), FUNCTION), "no export 'rota_alloc'"),
        (PROGRAM, Code(digest(PROGRAM), COMPONENT), "component"),
        (PROGRAM, Code(digest(PROGRAM), COMMAND), "is not kept here"),
        (COMMAND_BUNDLE, Code(digest(COMMAND_BUNDLE), AGENT), "is not kept here"),
    ],
)
def test_code_that_does_not_fit_its_kind_is_refused(store: ModuleStore, data: bytes, code: Code, said: str) -> None:
    """Goal: what is wrong is said at the deploy, not in each task. Method: one wrong deploy of each sort."""
    keep(store, PROGRAM, data)
    with pytest.raises(CodeError, match=said):
        store.admit("name", code)


def test_a_command_needs_a_program(store: ModuleStore) -> None:
    """Goal: the program of a bundle is checked like a module. Method: an agent's module, and one with an import that
    nobody offers; the same as a runtime is the worker's to judge, if it is there.
    """
    for module, said in ((COUNTER, "no export '_start'"), (SECRET, "'env.get'")):
        bundle = encode_bundle(new_bundle(digest(module)))
        keep(store, module, bundle)
        with pytest.raises(CodeError, match=said):
            store.admit("job", Code(digest(bundle), COMMAND))
    source = encode_bundle(new_bundle(digest(COUNTER), entry="a", files={"a": b""}))
    keep(store, source)
    store.admit("job", Code(digest(source), SOURCE))
    lost = encode_bundle(new_bundle(bytes(32), entry="a", files={"a": b""}))
    keep(store, lost)
    with pytest.raises(NotKept, match="runtime"):
        store.admit("job", Code(digest(lost), SOURCE))


def test_a_bundle_keeps_its_program(store: ModuleStore, tmp_path: Path) -> None:
    """Goal: compaction removes only what nothing needs. Method: one bundle that is named and one that is not, with
    programs of their own, a damaged bundle, a half-written file.
    """
    other = encode_bundle(new_bundle(digest(SECRET)))
    keep(store, PROGRAM, SECRET, COUNTER, COMMAND_BUNDLE, other)
    (tmp_path / "x.1.draft").write_bytes(b"half")
    damaged = tmp_path / f"{'ab' * 32}.bundle"
    damaged.write_bytes(b"damaged")
    artefacts = tmp_path / "artefacts"
    artefacts.mkdir()
    for suffix in ("native", "program", "base", "image"):
        (artefacts / f"a.{suffix}").write_bytes(b"code")
    assert programs(tmp_path, [digest(COMMAND_BUNDLE), bytes(32), bytes.fromhex("ab" * 32)]) == {digest(PROGRAM): None}
    removed, _ = store.collect([digest(COUNTER)], [digest(COMMAND_BUNDLE), bytes.fromhex("ab" * 32)], artefacts)
    assert removed == 2
    kept = [f"{digest(one).hex()}.wasm" for one in (PROGRAM, COUNTER)] + [f"{digest(COMMAND_BUNDLE).hex()}.bundle"]
    assert names(tmp_path) == sorted([*kept, damaged.name, "artefacts"])
    assert not list(artefacts.iterdir())
