"""Every SDK gives the same bytes for the same inputs: tests/kits/sdk_cases.py over tests/kits/sdk_languages.py.

The examples run on the real executor, each case in a fresh instance, with compiled code shared by the module's tests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgpack
import pytest
from sdk_cases import CASES, EXAMPLES, FLOW_CASES, FLOWS, LANE_SEED, Case, FlowCase, failed, pack, task
from sdk_languages import LANGUAGES, TYPESCRIPT, Language

from rota.common.calls import instance_address
from rota.common.code_kinds import IS_MODULE, KINDS, content_file
from rota.common.digests import digest
from rota.common.work import NO_STEPS, Code, Done, Failed, Fold, Limits, Outcome, Past
from rota.cpu_worker import abi
from rota.cpu_worker.executor import WasmExecutor
from rota.cpu_worker.open_turns import OpenTurns
from rota.cpu_worker.task_log import TaskLog

LIMITS = Limits(fuel=200_000_000)


class Seen(NamedTuple):
    """What came of a case. `packed`: the output's bytes, None if it ended without."""

    outcome: Outcome
    state: bytes | None
    packed: bytes | None


class Runner:
    """Runs cases; a code is prepared when its first case comes."""

    def __init__(self, folder: Path) -> None:
        self._modules = folder / "modules"
        self._modules.mkdir()
        self._executor = WasmExecutor(self._modules, folder / "artefacts", None, lambda: time.monotonic() * 1000)
        self._codes: dict[tuple[str, str], Code] = {}
        self.outputs: list[bytes] = []

    def run(self, language: Language, case: Case, limits: Limits = LIMITS) -> Seen:
        self.outputs.clear()
        code = self._code(language, case.example)._replace(limits=limits)
        fold = Fold(LANE_SEED, code, f"{case.example}/case", case.state, (case.task,), case.open)
        result = self._executor.run(fold)
        if result.stopped is not None:
            return Seen(Failed(result.stopped, result.reason, case.log, 0), None, None)
        (outcome,) = result.outcomes
        return Seen(outcome, result.state, self.outputs[0] if self.outputs else None)

    def run_flow(self, language: Language, case: FlowCase) -> list[Outcome]:
        self.outputs.clear()
        code = self._code(language, case.example)._replace(limits=LIMITS, flow=True)
        past = Past(NO_STEPS, len(case.tasks), 0)
        address = instance_address(case.example, case.tasks[0].turn)
        result = self._executor.run(Fold(LANE_SEED, code, address, None, case.tasks, (), past))
        assert result.stopped is None, result.reason
        return list(result.outcomes)

    def close(self) -> None:
        self._executor.close()

    def _code(self, language: Language, example: str) -> Code:
        found = self._codes.get((language.name, example))
        if found is None:
            content = language.content(example)
            own = KINDS[language.kind].content
            for data, kind in ((content.data, own), *((data, IS_MODULE) for data in content.beside)):
                (self._modules / content_file(digest(data), kind)).write_bytes(data)
            found = Code(digest(content.data), language.kind, limits=LIMITS)
            self._executor.prepare(found, example)
            self._codes[language.name, example] = found
        return found


@pytest.fixture(scope="module")
def shared_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    made = Runner(tmp_path_factory.mktemp("sdk"))
    yield made
    made.close()


@pytest.fixture
def run(shared_runner: Runner, monkeypatch: pytest.MonkeyPatch) -> Callable[[Language, Case], Seen]:
    """Runs a case and keeps the bytes that the guest returned, which the outcome no longer has."""
    decode = abi.decode_output

    def keep(data: bytes, *args: object, **more: object) -> object:
        shared_runner.outputs.append(data)
        return decode(data, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(abi, "decode_output", keep)
    return shared_runner.run


def _expected(case: Case, limits: Limits) -> tuple[Outcome, bytes | None]:
    outcome, state = abi.decode_output(
        case.packed,
        address=f"{case.example}/case",
        state=case.state,
        task=case.task,
        limits=limits,
        fuel=0,
        log=TaskLog(limits.log_bytes),
        open_turns=OpenTurns(case.open),
    )
    return outcome._replace(log=case.log), state


def _check(seen: Seen, case: Case, language: Language) -> str | None:
    """Return what differs, None if nothing does."""
    outcome = seen.outcome
    if case.output is None:
        end = language.ends[case.name]
        good = isinstance(outcome, Failed) and outcome.kind == end.kind and end.text in outcome.message
        if not good or case.log[0] not in outcome.log:
            return f"{case.name}: {outcome}, not {end}"
        return None
    expected, state = _expected(case, LIMITS)
    if outcome._replace(fuel=0) != expected or seen.state != state:
        return f"{case.name}: {outcome}, state {seen.state!r}; not {expected}, state {state!r}"
    if language.packs and isinstance(outcome, Done) and seen.packed != case.packed:
        return f"{case.name}: {seen.packed!r}, not {case.packed!r}"
    return None


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.name)
def test_an_example_gives_the_agreed_bytes(
    language: Language, example: str, run: Callable[[Language, Case], Seen]
) -> None:
    """Goal: one shape in all languages. Method: each case of the example, and the output byte by byte."""
    cases = [case for case in CASES if case.example == example]
    differences = [_check(run(language, case), case, language) for case in cases]
    assert not [text for text in differences if text is not None]


@pytest.mark.parametrize("case", FLOW_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize(
    "language", [*[one for one in LANGUAGES if one.flows], TYPESCRIPT], ids=lambda language: language.name
)
def test_a_flow_gives_the_agreed_bytes(
    language: Language, case: FlowCase, run: Callable[..., Seen], shared_runner: Runner
) -> None:
    """Goal: the same procedure in all languages that have flows. Method: the messages of a call; each step's bytes, but
    for the text that says where it waits.
    """
    outcomes = shared_runner.run_flow(language, case)
    assert tuple([line for outcome in outcomes for line in outcome.log]) == case.log
    assert len(outcomes) == len(case.tasks)
    for place, (outcome, expected) in enumerate(zip(outcomes, case.outputs, strict=True)):
        if isinstance(outcome, Failed):
            assert (outcome.kind, outcome.message.startswith(f"{expected[2]}: {expected[3]}")) == ("error", True)
            continue
        fields = msgpack.unpackb(shared_runner.outputs[place])
        if outcome.waits is not None:
            assert outcome.waits.partition(":")[0] == f"{case.example}{language.flows}"
            fields[7] = ""
        assert fields == expected
        assert pack(fields) == pack(expected)


@pytest.mark.parametrize(
    ("language", "memory_bytes", "kind", "text"),
    [
        ("c", 2 << 20, "error", "out_of_memory: the agent needs more than its memory_bytes"),
        ("zig", 2 << 20, "error", "out_of_memory: the agent needs more than its memory_bytes"),
        ("rust", 3 << 20, "error", "out_of_memory: the agent needs more than its memory_bytes"),
        ("assemblyscript", 2 << 20, "trap", "unreachable"),
    ],
)
def test_too_little_memory(shared_runner: Runner, language: str, memory_bytes: int, kind: str, text: str) -> None:
    """Goal: an agent that needs more memory than it may have says so. Method: room for the input and none for more."""
    case = Case("large", "echo", task(bytes(1 << 20)), None, None)
    one = next(one for one in LANGUAGES if one.name == language)
    outcome = shared_runner.run(one, case, Limits(memory_bytes=memory_bytes)).outcome
    assert isinstance(outcome, Failed)
    assert (outcome.kind, text in outcome.message) == (kind, True), outcome


@pytest.mark.parametrize("language", ["rust", "zig", "assemblyscript", "go"])
@pytest.mark.parametrize(
    "payload",
    [
        b"\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x8f\xbf\xbf", b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80", b"ok\xe4\xb8", b"\xc3(",
    ],
)  # fmt: skip
def test_text_that_is_not_utf8(shared_runner: Runner, language: str, payload: bytes) -> None:
    """Goal: bytes are never taken for text. Method: each way of not being UTF-8, to an example that asks for text."""
    case = Case("not text", "failing", task(payload), None, failed("bad_payload", "the payload is not UTF-8"))
    one = next(one for one in LANGUAGES if one.name == language)
    outcome = shared_runner.run(one, case).outcome
    assert isinstance(outcome, Failed)
    assert (outcome.kind, outcome.message) == ("error", "bad_payload: the payload is not UTF-8")


@pytest.mark.parametrize("language", ["rust", "assemblyscript"])
def test_text_in_a_value_that_is_not_utf8(shared_runner: Runner, language: str) -> None:
    """Goal: the same inside a value, where a language has texts that are no bytes. Method: a str that is none."""
    case = Case("not text", "verbs", task(b"\xa2\xc3("), None, None)
    one = next(one for one in LANGUAGES if one.name == language)
    outcome = shared_runner.run(one, case).outcome
    assert isinstance(outcome, Failed)
    assert outcome.message == "bad_payload: the payload is not one MessagePack value"


def test_every_example_has_cases() -> None:
    """Goal: no example is forgotten. Method: the names in the cases."""
    assert sorted({case.example for case in CASES}) == sorted(EXAMPLES)
    assert sorted({case.example for case in FLOW_CASES}) == sorted(FLOWS)
