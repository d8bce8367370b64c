"""Build the examples of the SDKs in Rust, Zig and AssemblyScript. Usage: build_sdk.py [--check] [LANGUAGE ...]

Writes sdk/LANGUAGE/examples/*.wasm and DIGESTS; with --check it builds aside and compares. A build is the same on every
host with the same compiler, so the versions below are exact. A compiler that is missing ends the script with what to
install. build_agents.py does the same for C; the examples in Go are too large to be kept, tests build them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
SDK: Final = REPOSITORY / "sdk"
EXAMPLES: Final = ("ask_model", "counter", "desk", "echo", "failing", "two_step", "verbs")
FLOWS: Final = {"rust": ("trip", "waits")}  # of the languages that have flows
DIGESTS: Final = "DIGESTS"

RUSTC_VERSION: Final = "1.63.0"
ASC_VERSION: Final = "0.28.20"
BUILD_SECONDS_MAX: Final = 600
_NODE_MODULES: Final = REPOSITORY / ".cache" / "npm" / "node_modules" / ".bin"


class BuildError(Exception):
    """A compiler is missing or refused an example; the message says which and why."""


def build_rust(example: str, target: Path) -> None:
    """Build one example of the crate, without cargo."""
    flags = [
        "--edition", "2021", "--target", "wasm32-unknown-unknown", "-C", "opt-level=s", "-C", "codegen-units=1",
        "-C", "panic=abort", "--remap-path-prefix", f"{SDK / 'rust'}=sdk",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        crate = [_rustc(), *flags, "--crate-name", "rota", "--crate-type", "rlib", "src/lib.rs", "--out-dir", folder]
        _run(crate, SDK / "rust")
        words = [
            _rustc(), *flags, "-C", "lto", "-C", "strip=symbols", "--crate-name", example, "--crate-type", "cdylib",
            "--extern", f"rota={folder}/librota.rlib", f"examples/{example}.rs", "-o", str(target),
        ]  # fmt: skip
        _run(words, SDK / "rust")


def _rustc() -> str:
    """Return the compiler of the exact version that has the target."""
    for found in (shutil.which("rustc"), "/usr/bin/rustc"):
        if found and Path(found).exists():
            asked = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
            if asked.split()[1:2] == [RUSTC_VERSION]:
                return found
    raise BuildError(
        f"the examples in Rust need rustc {RUSTC_VERSION} with the target wasm32-unknown-unknown: on Debian 12, "
        "apt-get install rustc libstd-rust-dev-wasm32 lld"
    )


def build_zig(example: str, target: Path) -> None:
    """Build one example with the pinned `ziglang` of the extra `dev`."""
    words = [
        sys.executable, "-m", "ziglang", "build-exe", "-target", "wasm32-freestanding",
        "-mcpu=mvp+bulk_memory+sign_ext+nontrapping_fptoint", "-O", "ReleaseSafe", "-fno-entry", "-rdynamic",
        "-fstrip", "--stack", "65536", f"-femit-bin={target}", "--dep", "rota", "--dep", "agent", "-Mroot=main.zig",
        "-Mrota=rota.zig", "--dep", "rota", f"-Magent=examples/{example}.zig",
    ]  # fmt: skip
    cache = str(REPOSITORY / ".cache" / "zig")
    _run(words, SDK / "zig", {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache})


def build_assemblyscript(example: str, target: Path) -> None:
    """Build one example with the exact version of the compiler."""
    words = [
        _asc(), "main.ts", "--lib", "lib", "--lib", f"examples/{example}", "-Osize", "--runtime", "stub",
        "--use", "abort=~lib/rota/rotaAbort", "--use", "seed=~lib/rota/rotaSeed", "-o", str(target),
    ]  # fmt: skip
    _run(words, SDK / "assemblyscript")


def _asc() -> str:
    found = shutil.which("asc", path=os.pathsep.join([str(_NODE_MODULES), os.environ.get("PATH", os.defpath)]))
    if found:
        asked = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        if asked.split()[1:2] == [ASC_VERSION]:
            return found
    raise BuildError(
        f"the examples in AssemblyScript need asc {ASC_VERSION}: npm install --prefix .cache/npm "
        f"assemblyscript@{ASC_VERSION}"
    )


def _run(words: list[str], folder: Path, more: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        words, cwd=folder, env=os.environ | (more or {}), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=BUILD_SECONDS_MAX, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(f"{folder.name}: {done.stderr.strip() or done.stdout.strip() or f'exit {done.returncode}'}")


BUILDERS: Final[dict[str, Callable[[str, Path], None]]] = {
    "rust": build_rust,
    "zig": build_zig,
    "assemblyscript": build_assemblyscript,
}


def examples(language: str) -> tuple[str, ...]:
    """Return the names of a language's examples, flows too."""
    return EXAMPLES + FLOWS.get(language, ())


def digests(language: str) -> str:
    """Return the lines of DIGESTS for the modules of a language as they are."""
    modules = sorted((SDK / language / "examples").glob("*.wasm"))
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in modules)


def build(language: str) -> None:
    """Build all examples of a language in place."""
    folder = SDK / language / "examples"
    for example in examples(language):
        target = folder / f"{example}.wasm"
        BUILDERS[language](example, target)
        target.chmod(0o644)  # linkers make it executable, which git would record
        print(f"{target.relative_to(REPOSITORY)} {target.stat().st_size} bytes")
    (folder / DIGESTS).write_text(digests(language), encoding="utf-8")


def differences(language: str, only: tuple[str, ...] = ()) -> list[str]:
    """Build all examples, or those named, aside; return a line for each module that is not what its source makes."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for example in only or examples(language):
            built = Path(folder) / f"{example}.wasm"
            BUILDERS[language](example, built)
            committed = SDK / language / "examples" / built.name
            if not committed.exists() or committed.read_bytes() != built.read_bytes():
                found.append(f"{committed.relative_to(REPOSITORY)} is not what its source makes")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    parser.add_argument("languages", nargs="*", choices=[*BUILDERS, []], help="all if none is named")
    options = parser.parse_args()
    found = []
    try:
        for language in options.languages or BUILDERS:
            if options.check:
                found += differences(language)
            else:
                build(language)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
