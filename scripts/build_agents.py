"""Build the example agents in C into the .wasm files beside them. Usage: build_agents.py [--check]

They are in examples/agents, sdk/c/examples and tests/kits/agents. With --check nothing is written: each agent is built
into a temporary folder and compared with the committed file, so that source and .wasm stay equal. Builds are
reproducible: a pinned compiler (`ziglang` in pyproject.toml), no paths and no names in the output. DIGESTS in each
folder is for `sha256sum -c`. After a change of rota.h or of the compiler, build all again and commit sources, .wasm
files and DIGESTS together.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parent.parent
FOLDERS: Final = tuple(REPOSITORY / path for path in ("examples/agents", "sdk/c/examples", "tests/kits/agents"))
HEADER: Final = REPOSITORY / "sdk" / "c"  # of rota.h
CACHE: Final = REPOSITORY / ".cache" / "zig"
DIGESTS: Final = "DIGESTS"

BUILD_SECONDS_MAX: Final = 120  # for one agent; the first takes seconds, the others less

FLAGS: Final = (
    "-target", "wasm32-freestanding",
    # Listed one by one, so that a new compiler does not use features that an older engine lacks.
    "-mcpu=mvp+bulk_memory+sign_ext+nontrapping_fptoint",
    "-std=c11", "-Wall", "-Wextra", "-Werror",
    "-Os",
    "-fno-inline-functions",  # inlining the helpers of rota.h would double the size of each agent
    "-nostdlib", "-Wl,--no-entry", "-Wl,--strip-all",
    "-Wl,-z,stack-size=65536",  # the default, 16 MiB, would make every fresh instance slower
)  # fmt: skip


class BuildError(Exception):
    """The compiler refused an agent; the message is the compiler's."""


def sources() -> list[Path]:
    """Return the agents' sources, folder by folder, in the order of their names."""
    return [path for folder in FOLDERS for path in sorted(folder.glob("*.c"))]


def build(source: Path, target: Path, *, cache: Path = CACHE) -> None:
    """Compile one agent. Raises `BuildError` with what the compiler said."""
    # The cache must not go into the user's home.
    environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": str(cache), "ZIG_LOCAL_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-I", str(HEADER), source.name, "-o", str(target)]
    done = subprocess.run(
        command,
        cwd=source.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS_MAX,
        check=False,
    )
    if done.returncode != 0:
        raise BuildError(f"{source.name}: {done.stderr.strip() or done.stdout.strip() or f'exit {done.returncode}'}")
    target.chmod(0o644)  # the linker makes it executable, which git would record


def differences() -> list[str]:
    """Build everything in a temporary folder; return a line for each file that differs from its build."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sources():
            built, committed = Path(folder) / f"{source.stem}.wasm", source.with_suffix(".wasm")
            build(source, built)
            if not committed.exists():
                found.append(f"{committed.name} is missing")
            elif built.read_bytes() != committed.read_bytes():
                found.append(f"{committed.name} is not what {source.name} makes")
    for place in FOLDERS:
        modules = sorted(place.glob("*.wasm"))
        found += [f"{path.name} has no source" for path in modules if not path.with_suffix(".c").exists()]
        if not (place / DIGESTS).exists() or (place / DIGESTS).read_text(encoding="utf-8") != digests(place):
            found.append(f"{place.name}/{DIGESTS} does not list the .wasm files as they are")
    return found


def digests(folder: Path) -> str:
    """Return the lines of DIGESTS for the existing .wasm files of a folder."""
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.wasm"))
    )


def build_all() -> None:
    """Build every agent in place and write DIGESTS."""
    for source in sources():
        target = source.with_suffix(".wasm")
        build(source, target)
        print(f"{target.relative_to(REPOSITORY)} {target.stat().st_size} bytes")
    for folder in FOLDERS:
        (folder / DIGESTS).write_text(digests(folder), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    options = parser.parse_args()

    from _environment import (
        ensure_environment,
    )  # not at the top: tests import this file without a scripts folder in path

    ensure_environment(["dev"])
    try:
        if not options.check:
            build_all()
            return 0
        found = differences()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("run scripts/build_agents.py and commit what it writes", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
