"""The examples of Python as a component give the same outcomes as in every other way.

Building one takes componentize-py and half a minute, so this runs only with ROTA_COMPONENTIZE=1. All examples are in
one component, which picks by the name in the agent's address.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import pytest
from sdk_cases import CASES, EXAMPLES, LANE_SEED, Case

from rota.common.digests import digest
from rota.common.work import COMPONENT, Code, Failed, Fold, Limits, Outcome
from rota.cpu_worker import abi
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.open_turns import OpenTurns
from rota.cpu_worker.task_log import TaskLog
from rota.sdk.building import build_folder
from rota.sdk.files import folder as sdk_folder

pytestmark = pytest.mark.timeout(1_800)  # a busy host takes minutes to build and to compile

LIMITS = Limits(fuel=200_000_000)
# In a component no line is written before the answer, and the stack of the C code inside is not deep.
ENDS = {"crash": "ValueError: crashed", "deep": "RecursionError", "spin": "out of fuel"}


@pytest.fixture(scope="module")
def executor_and_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WasmExecutor, Code]]:
    if not os.environ.get("ROTA_COMPONENTIZE"):
        pytest.skip("ROTA_COMPONENTIZE is not set")
    folder = tmp_path_factory.mktemp("component")
    for example in EXAMPLES:
        shutil.copyfile(sdk_folder("python") / "examples" / f"{example}.py", folder / f"example_{example}.py")
    imports = "\n".join([f"import example_{example}" for example in EXAMPLES])
    pick = 'def agent(ctx):\n    globals()["example_" + ctx.message.address.split("/")[0]].agent(ctx)\n'
    (folder / "agent.py").write_text(f"{imports}\n\n{pick}", encoding="utf-8")
    manifest = '[agent]\nname = "examples"\nlanguage = "python"\nkind = "component"\n'
    (folder / "rota.toml").write_text(manifest, encoding="utf-8")
    component = build_folder(folder).path.read_bytes()
    modules = folder / "modules"
    modules.mkdir()
    (modules / f"{digest(component).hex()}.wasm").write_bytes(component)
    executor = WasmExecutor(modules, folder / "artefacts", None, lambda: time.monotonic() * 1000)
    code = Code(digest(component), COMPONENT, limits=LIMITS)
    executor.prepare(code, "examples")
    yield executor, code
    executor.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.example}-{case.name}")
def test_an_example_gives_the_agreed_outcome(executor_and_code: tuple[WasmExecutor, Code], case: Case) -> None:
    """Goal: one shape, also in a component. Method: each case of all SDKs."""
    executor, code = executor_and_code
    result = executor.run(Fold(LANE_SEED, code, f"{case.example}/case", case.state, (case.task,), case.open))
    assert result.stopped is None, result.reason
    (outcome,) = result.outcomes
    if case.output is None:
        assert isinstance(outcome, Failed)
        assert ENDS[case.name] in outcome.message
        return
    expected: Outcome
    expected, state = abi.decode_output(
        case.packed,
        address=f"{case.example}/case",
        state=case.state,
        task=case.task,
        limits=LIMITS,
        fuel=0,
        log=TaskLog(LIMITS.log_bytes),
        open_turns=OpenTurns(case.open),
    )
    assert outcome._replace(fuel=0) == expected._replace(log=case.log)
    assert result.state == state
