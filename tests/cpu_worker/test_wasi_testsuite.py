"""The programs of the wasi-testsuite for preview 1, as commands: an outside view of our WASI.

They are not in the repository. To run this, name a checkout of their built form (branch `prod/testsuite-base` of
https://github.com/WebAssembly/wasi-testsuite): ROTA_WASI_TESTSUITE=FOLDER. docs/WASI.md says how it went.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rota.common.bundle import encode_bundle, new_bundle
from rota.common.digests import digest
from rota.common.work import COMMAND, Code, Done

FOLDER = os.environ.get("ROTA_WASI_TESTSUITE", "")
PROGRAMS = sorted(Path(FOLDER).rglob("wasm32-wasip1/*.wasm")) if FOLDER else []
DIFFERS = ("sock_shutdown-invalid_fd",)  # takes for granted that descriptor 3 is not open


@pytest.mark.skipif(not PROGRAMS, reason="ROTA_WASI_TESTSUITE names no folder with the built programs")
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_program_of_the_suite(world: Any, run: Any, program: Path) -> None:
    """Goal: the program ends as its description says. Method: run it with its arguments, environment and folder."""
    if program.stem in DIFFERS:
        pytest.skip("docs/WASI.md says why")
    described = program.with_suffix(".json")
    wanted = json.loads(described.read_text(encoding="utf-8")) if described.exists() else {}
    files = {}
    if "root" in wanted:
        root = program.parent / wanted["root"]
        files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    module = world.function(program.read_bytes()).digest
    bundle = new_bundle(module, args=wanted.get("args", ()), env=wanted.get("env", {}), files=files)
    data = encode_bundle(bundle)
    (world.modules_dir / f"{digest(data).hex()}.bundle").write_bytes(data)
    outcome = run(world.executor(), Code(digest(data), COMMAND), b"").outcomes[0]
    if wanted.get("exit_code", 0):
        assert outcome.message.startswith(f"exit {wanted['exit_code']}:")
    else:
        assert isinstance(outcome, Done), (outcome.message, outcome.log)
        assert outcome.result is not None
        assert outcome.result.decode() == wanted.get("stdout", outcome.result.decode())
