"""runtimes/content.py, bundles.py, author_files.py: what becomes of the files that an author deploys."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sdk_languages import SDK
from wasmtime import wat2wasm

from rota.common.bundle import Bundle, decode_bundle, encode_bundle, new_bundle
from rota.common.digests import digest
from rota.common.errors import CodeError, ConfigError
from rota.common.work import AGENT, COMMAND, COMPONENT, FUNCTION, SOURCE
from rota.runtimes.author_files import Given, gather
from rota.runtimes.bundles import runtime_of_source, source_bundle
from rota.runtimes.catalog import RUNTIMES, runtime_named, runtime_of
from rota.runtimes.content import Content, Extras, content_like, content_of
from rota.runtimes.folder import FOLDER_VARIABLE

PROGRAM = bytes(wat2wasm('(module (memory (export "memory") 1) (func (export "_start")))'))
STEP = bytes(wat2wasm('(module (func (export "_start")) (func (export "rota_step")))'))
PYTHON = RUNTIMES["python"]


def bundle_of(content: Content) -> Bundle:
    return decode_bundle(content.parts[content.digest]())


def own(bundle: Bundle) -> dict[str, bytes]:
    """Return the files of a bundle without those of Rota."""
    return {path: data for path, data in bundle.files if not path.startswith("rota/")}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "planner"
    for path, text in (
        ("agent.py", "import plans"), ("plans/__init__.py", "x = 1"), ("plans/words.txt", "a b"),
        ("plans/__pycache__/x.pyc", "no"), (".git/config", "no"), (".hidden", "no"), ("old.pyc", "no"),
    ):  # fmt: skip
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def wheel(path: Path, *, pure: bool = True, facts: str = "x-1.dist-info/WHEEL") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/__init__.py", "y = 2")
        archive.writestr("x/data/", "")
        archive.writestr(facts, f"Wheel-Version: 1.0\nRoot-Is-Purelib: {str(pure).lower()}\n")
    return path


def test_the_kind_is_found_by_what_the_code_is(tmp_path: Path, project: Path) -> None:
    """Goal: `deploy NAME FILE` needs no kind. Method: one of each sort, and a kind that is given."""
    (tmp_path / "planner.py").write_text("x", encoding="utf-8")
    (tmp_path / "planner.js").write_text("x", encoding="utf-8")
    for module, kind in (
        (PROGRAM, COMMAND), (STEP, AGENT), (tmp_path / "planner.py", SOURCE), (str(tmp_path / "planner.js"), SOURCE),
        (project, SOURCE),
    ):  # fmt: skip
        assert content_of(module, None, Extras()).kind == kind
    assert content_of(PROGRAM, FUNCTION, Extras()) [:2] == (FUNCTION, digest(PROGRAM))  # fmt: skip


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("async def flow(ctx): ...", True),
        ("def flow(ctx): ...", True),
        ("from x import trip as flow", True),
        ("flow, other = 1, 2", True),
        ("try:\n    from a import flow\nexcept ImportError:\n    flow = None", True),
        ("if True:\n    pass\nelse:\n    async def flow(ctx): ...", True),
        ("async def flow(ctx): ...\ndef agent(ctx): ...", False),
        ("def agent(ctx):\n    def flow(): ...", False),
        ("def other(ctx):\n    flow = 1", False),
        ("x.flow = 1", False),
        ("async def flow(", False),
        ("\0", False),
        ("", False),
    ],
)
def test_a_source_in_python_is_a_flow_by_what_it_binds(tmp_path: Path, source: str, wanted: bool) -> None:
    """Goal: nobody has to say that a flow is one. Method: ways to bind names, and files that cannot be read."""
    (tmp_path / "trip.py").write_text(source, encoding="utf-8")
    assert content_of(tmp_path / "trip.py", None, Extras()).flow is wanted
    assert content_of(tmp_path / "trip.py", None, Extras(), flow=True).flow
    assert not content_of(tmp_path / "trip.py", None, Extras(), flow=False).flow


def test_what_else_may_be_a_flow(tmp_path: Path, project: Path) -> None:
    """Goal: a bundle that was made before and a main file of a folder are looked at, too; a module is a flow if it or
    the deploy says so, and what keeps no state never. Method: one of each, and modules of the SDKs.
    """
    (project / "agent.py").write_text("async def flow(ctx): ...", encoding="utf-8")
    content = content_of(project, None, Extras())
    assert content.flow
    assert content_of(content.parts[content.digest](), SOURCE, Extras()).flow
    assert not content_of(STEP, None, Extras()).flow
    assert content_of(STEP, None, Extras(), flow=True).flow
    for language in ("c", "rust"):
        trip, desk = [SDK / language / "examples" / f"{name}.wasm" for name in ("trip", "desk")]
        assert [content_of(path, None, Extras()).flow for path in (trip, desk)] == [True, False]
        assert not content_of(trip, None, Extras(), flow=False).flow
    for kind in (FUNCTION, COMMAND, COMPONENT):
        with pytest.raises(CodeError, match=f"kind {kind} cannot be a flow: only one of kind agent or source"):
            content_of(STEP, kind, Extras(), flow=True)


def test_a_source_is_its_files_and_those_of_rota(project: Path) -> None:
    """Goal: the digest covers what runs. Method: a folder; hidden files and caches stay out."""
    found = source_bundle(project, args=("-v",), env={"B": "1"}, files={"more.txt": b"m"})
    assert found.runtime == PYTHON
    assert (found.bundle.module, found.bundle.entry) == (PYTHON.digest, "agent.py")
    wanted = {"agent.py": b"import plans", "plans/__init__.py": b"x = 1", "plans/words.txt": b"a b", "more.txt": b"m"}
    assert own(found.bundle) == wanted
    content = content_of(project, None, Extras(args=["-v"], env={"B": "1"}, files={"more.txt": b"m"}))
    assert bundle_of(content) == found.bundle
    assert list(content.parts) == [PYTHON.digest, content.digest]


def test_a_runtime_is_read_when_it_is_wanted(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a deploy needs the runtime here only if the broker lacks it, and says how to get it. Method: no runtime."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "none"))
    content = content_of(project, None, Extras())
    with pytest.raises(ConfigError, match="rota runtime fetch python"):
        content.parts[PYTHON.digest]()


def test_what_goes_along_has_its_place(project: Path, tmp_path: Path) -> None:
    """Goal: `--with` takes files, folders and wheels. Method: one of each, under their own and other names."""
    (tmp_path / "deps" / "lib").mkdir(parents=True)
    (tmp_path / "deps" / "lib" / "a.py").write_text("1", encoding="utf-8")
    (tmp_path / "note.txt").write_text("n", encoding="utf-8")
    beside: list[Any] = [
        tmp_path / "note.txt", ("data/other.txt", tmp_path / "note.txt"), tmp_path / "deps", (".", tmp_path / "deps"),
        wheel(tmp_path / "x-1-py3-none-any.whl"),
    ]  # fmt: skip
    names = list(own(bundle_of(content_of(project, None, Extras(with_=beside)))))
    assert names == [
        "agent.py", "data/other.txt", "deps/lib/a.py", "lib/a.py", "note.txt", "plans/__init__.py", "plans/words.txt",
        "x-1.dist-info/WHEEL", "x/__init__.py",
    ]  # fmt: skip


def test_a_command_is_its_program_and_what_it_starts_with(tmp_path: Path) -> None:
    """Goal: arguments, environment and files are in the digest. Method: the bundle, and one argument more."""
    (tmp_path / "in.txt").write_text("in", encoding="utf-8")
    extras = {"args": ("a",), "env": {"K": "v"}, "files": {"in.txt": tmp_path / "in.txt", "b": b"bytes"}}
    content = content_of(PROGRAM, None, Extras(**extras))
    wanted = new_bundle(digest(PROGRAM), args=("a",), env={"K": "v"}, files={"in.txt": b"in", "b": b"bytes"})
    assert bundle_of(content) == wanted
    assert content.parts[digest(PROGRAM)]() == PROGRAM
    assert content_of(PROGRAM, None, Extras(**{**extras, "args": ("a", "b")})).digest != content.digest
    made = content_of(encode_bundle(wanted), COMMAND, Extras())
    assert made[:2] == content[:2]
    assert list(made.parts) == [content.digest]


def test_new_code_is_started_like_the_old(project: Path, tmp_path: Path) -> None:
    """Goal: fork and check-upgrade change the code alone. Method: another program, main file, folder in old bundles."""
    old = new_bundle(bytes(32), args=("a",), env={"K": "v"}, files={"f": b"1"})
    new = bundle_of(content_like(COMMAND, old, PROGRAM))
    assert new == old._replace(module=digest(PROGRAM))
    source = source_bundle(project, args=("a",)).bundle
    (tmp_path / "planner2.py").write_text("new", encoding="utf-8")
    changed = bundle_of(content_like(SOURCE, source, tmp_path / "planner2.py"))
    assert own(changed) == {**own(source), "agent.py": b"new"}
    assert changed[:4] == source[:4]
    assert bundle_of(content_like(SOURCE, source, project)) == source
    assert content_like(AGENT, None, STEP)[:2] == (AGENT, digest(STEP))


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (("main.txt",), {}, "no main file of a usual name"),
        (("agent.py", "agent.js"), {}, "agent.py and agent.js: name its main file with --entry"),
        (("agent.py",), {"entry": "b.py"}, "has no b.py"),
        (("agent.py", "x.txt"), {"entry": "x.txt"}, "no runtime is for files that end so"),
        (("agent.py",), {"runtime": "perl"}, "there is no runtime 'perl'"),
        (("agent.py", "rota/x.py"), {}, "is Rota's own"),
    ],
)
def test_a_folder_that_cannot_be_a_source_says_why(
    tmp_path: Path, names: tuple[str, ...], options: dict[str, str], said: str
) -> None:
    """Goal: the remedy is in the text. Method: one wrong folder each."""
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    with pytest.raises((CodeError, ConfigError), match=said):
        source_bundle(tmp_path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("module", "kind", "extras", "said"),
    [
        (3, None, {}, "give the path of a file or folder"),
        (b"text", None, {}, "no WebAssembly module"),
        (PROGRAM, "perl", {}, "code is one of"),
        (PROGRAM, None, {"with_": ["x"]}, "with is for a source, and this is of kind command"),
        (STEP, None, {"args": ["x"]}, "args is for a command or a source, and this is of kind agent"),
        (PROGRAM, None, {"files": {"a": "/none"}}, "/none cannot be read"),
        (b"text", SOURCE, {}, "this is no bundle"),
        (encode_bundle(new_bundle(bytes(32))), COMMAND, {"args": ["x"]}, "args is for what a bundle is made of"),
    ],
)
def test_what_cannot_be_deployed_says_why(module: Any, kind: str | None, extras: Any, said: str) -> None:
    """Goal: a typed error before anything is sent. Method: one wrong call each."""
    with pytest.raises(CodeError, match=said):
        content_of(module, kind, Extras(**extras))


def test_a_file_of_any_suffix_is_a_source_if_its_runtime_is_named(tmp_path: Path) -> None:
    """Goal: a script without suffix is deployed, and a wrong file is told what would be one. Method: one of each, and
    the folder of a project that has to be built.
    """
    script = tmp_path / "planner"
    script.write_text("def agent(ctx): ...", encoding="utf-8")
    assert content_of(script, None, Extras(runtime="python")).kind == SOURCE
    with pytest.raises(CodeError, match=r"planner is neither WebAssembly nor .* \(.py .js .*--runtime \(python, java"):
        content_of(script, None, Extras())
    (tmp_path / "module").write_bytes(STEP)
    with pytest.raises(CodeError, match="runtime is for a source, and this is of kind agent"):
        content_of(tmp_path / "module", None, Extras(runtime="python"))
    (tmp_path / "rota.toml").write_text("", encoding="utf-8")
    with pytest.raises(CodeError, match="is a project of an agent: `rota build"):
        content_of(tmp_path, None, Extras())


def test_a_module_whose_start_is_named_is_a_command() -> None:
    """Goal: args and files go with it without a kind. Method: a module that has no `_start`."""
    found = content_of(STEP, None, Extras(args=["in.bin"]), {"start": "rota_step"})
    assert (found.kind, bundle_of(found).args) == (COMMAND, ("in.bin",))


def test_files_that_meet_or_are_no_files_are_refused(tmp_path: Path) -> None:
    """Goal: nothing is lost in silence. Method: two files for one place, a link to a folder, wheels of other sorts."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_text("1", encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
    (tmp_path / "no.whl").write_bytes(b"no zip")
    for given, said in (
        ([Given(tmp_path / "a"), Given(tmp_path / "a")], "another file a/x already"),
        ([Given(tmp_path / "b")], "is a link to a folder"),
        ([Given(tmp_path / "none")], "none cannot be read: No such file"),
        ([Given(wheel(tmp_path / "p.whl", pure=False))], "only wheels of pure Python"),
        ([Given(wheel(tmp_path / "q.whl", facts="x.txt"))], "no .dist-info/WHEEL"),
        ([Given(tmp_path / "no.whl")], "no wheel that can be read"),
    ):
        with pytest.raises(CodeError, match=said):
            gather(given)


def test_runtimes_are_found_by_name_digest_and_suffix(project: Path) -> None:
    """Goal: one row of the catalog is one build. Method: each way to find it, and what is not there."""
    assert runtime_named("python") == runtime_of(PYTHON.digest) == runtime_of_source(project) == PYTHON
    assert runtime_of_source(project, "plans/x.js") == RUNTIMES["javascript"]
    with pytest.raises(CodeError, match="which this Rota does not know"):
        runtime_of(bytes(32))
    assert len({one.digest for one in RUNTIMES.values()}) == len(RUNTIMES)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this platform has no pipes with names")
@pytest.mark.parametrize("what", ["pipe", "link to a device", "link to nothing"])
@pytest.mark.parametrize("where", ["in a folder", "beside", "as a file", "as the module"])
def test_what_has_no_end_is_not_read(project: Path, tmp_path: Path, what: str, where: str) -> None:
    """Goal: a wrong path neither hangs nor fills the memory. Method: a pipe nobody writes to, and a device."""
    place = (project if where == "in a folder" else tmp_path) / "odd"
    if what == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero" if what == "link to a device" else tmp_path / "none")
    extras = {"beside": Extras(with_=[place]), "as a file": Extras(files={"x": place})}.get(where, Extras())
    with pytest.raises(CodeError, match=r"odd (is no regular file|cannot be read: No such file)"):
        content_of(place if where == "as the module" else project, None, extras)


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("start", range(0, 60, 6))
def test_a_damaged_wheel_says_so(tmp_path: Path, packing: int, start: int) -> None:
    """Goal: no decompressor's own error. Method: bytes of the packed data replaced, at several places."""
    place = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(place, "w", packing) as archive:
        archive.writestr("x/__init__.py", "".join(f"name_{n} = {n * n}\n" for n in range(500)))
        archive.writestr("x-1.dist-info/WHEEL", "Root-Is-Purelib: true\n")
    data = bytearray(place.read_bytes())
    at = data.find(b"x/__init__.py") + len("x/__init__.py") + start
    data[at : at + 40] = b"\xff" * 40
    place.write_bytes(data)
    with pytest.raises(CodeError, match=r"cannot be read: \S"):
        gather([Given(place)])


def test_only_the_beginning_of_a_wheels_facts_is_read(tmp_path: Path) -> None:
    """Goal: the facts of a wheel fill no memory. Method: what matters is far behind."""
    place = tmp_path / "x-1-py3-none-any.whl"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x-1.dist-info/WHEEL", " " * (1 << 20) + "Root-Is-Purelib: true\n")
    with pytest.raises(CodeError, match="code for a platform"):
        gather([Given(place)])


def test_a_files_place_is_its_own(project: Path) -> None:
    """Goal: no file takes the place of another, or of one of Rota, without a word. Method: `files` of both sorts."""
    for place, said in (("rota/agent/boot.py", "is Rota's own"), ("agent.py", "another file agent.py already")):
        with pytest.raises(CodeError, match=said):
            content_of(project, None, Extras(files={place: b""}))
