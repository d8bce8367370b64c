"""Fuzz targets: text typed by people and scripts: addresses, settings from the environment, lines of --jsonl.

Typed text may have any character, and bytes that are not UTF-8, which Python keeps as surrogates and no message can
hold. Everything accepted here can be sent.
"""

from __future__ import annotations

import io
import json
import os
from random import Random
from typing import Any

import click
from _fuzz_engine import Target, check_words
from _fuzz_mutators import mutate_bytes, mutate_json
from hypothesis import strategies as st
from wire_strategies import TARGET

from rota.cli.submit import _lines
from rota.common import messages, wire
from rota.common.errors import BadPayload, BadTarget, ConfigError
from rota.common.targets import check_target, code_name, is_name, is_target
from rota.common.work import AGENT, Code
from rota.host.command import setting_options
from rota.host.config import BrokerSettings, CpuWorkerSettings, GpuWorkerSettings, settings_of


def mutate_text(rng: Random, text: str, other: str) -> str:
    """Damage the bytes of a text; bytes that are not UTF-8 become surrogates, as from the operating system."""
    return mutate_bytes(rng, text.encode(), other.encode()).decode("utf-8", "surrogateescape")


def check_address(text: str) -> bool:
    """An address is accepted and can be sent, or is refused; both checks agree."""
    try:
        assert check_target(text) == text
    except BadTarget as error:
        assert not is_target(text)
        check_words(error.message)
        return False
    order = messages.Prepare(1, text, _CODE)
    assert wire.decode(wire.encode(order), wire.TO_WORKERS) == order
    name, at, _ = code_name(text).partition("@")
    assert is_name(name.removeprefix("model:"))
    assert not at or name.startswith("model:"), "only a model has a version"
    return True


_CODE = Code(bytes(32), AGENT)

# --- settings -----------------------------------------------------------------------------------------------------

Environment = tuple[type, dict[str, bytes]]

_WORDS = st.sampled_from(
    (
        b"",
        b"1",
        b"20",
        b"0",
        b"true",
        b"cpu",
        b"info",
        b"w1",
        b"tcp://127.0.0.1:4100",
        b"tcp://localhost:65532",
        b"65536",
    )
)


def _environment(kind: Any) -> st.SearchStrategy[Environment]:
    variables = [setting.option.variable for setting in settings_of(kind).values()]
    return st.tuples(st.just(kind), st.dictionaries(st.sampled_from(variables), _WORDS, max_size=4))


ENVIRONMENTS = st.one_of(*map(_environment, (BrokerSettings, CpuWorkerSettings, GpuWorkerSettings)))


def mutate_environment(rng: Random, case: Environment, other: Environment) -> Environment:
    kind, values = case
    changed = dict(values)
    for variable in rng.sample(sorted(values), min(len(values), rng.choice((1, 1, 2)))):
        donor = rng.choice([*other[1].values(), b"9" * 30, "é".encode(), b"tcp://[::1]:1", b"-1"])
        changed[variable] = mutate_bytes(rng, values[variable], donor).replace(b"\0", b"")
    return kind, changed


def check_environment(case: Environment) -> bool:
    """A process accepts its settings from the environment, or names the bad one."""
    kind, values = case
    before = {variable: os.environ.get(variable) for variable in values}
    os.environ.update({variable: os.fsdecode(value) for variable, value in values.items()})
    made: list[Any] = []

    def make(**given: Any) -> None:
        made.append(kind(**{name: value for name, value in given.items() if value is not None}))

    try:
        click.Command("process", callback=make, params=[*setting_options(kind)]).main([], standalone_mode=False)
    except (click.UsageError, ConfigError) as error:
        check_words(str(error))
        return False
    finally:
        for variable, value in before.items():
            os.environ.pop(variable) if value is None else os.environ.update({variable: value})
    for name, value in vars(made[0]).items():
        if isinstance(value, str):
            assert wire.encode(messages.Heartbeat(value, 1)), name
    return True


# --- lines --------------------------------------------------------------------------------------------------------

_LINE = st.one_of(
    st.sampled_from((b"", b"{}", b"1", b'"text"', b"[1, 2]", b'{"a": null}')),
    st.builds(lambda target: messages_line({"target": target, "payload": {"base64": "aGk="}}), TARGET),
    st.builds(lambda target, payload: messages_line({"target": target, "payload": payload}), TARGET,
              st.text(max_size=5) | st.integers() | st.none() | st.lists(st.floats(), max_size=2)),
)  # fmt: skip
LINES = st.tuples(st.none() | st.just("counter/a"), st.lists(_LINE, min_size=1, max_size=4).map(b"\n".join))


def messages_line(value: Any) -> bytes:
    return json.dumps(value).encode()


def mutate_lines(rng: Random, case: Any, other: Any) -> Any:
    target, data = case
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    lines[at] = mutate_json(rng, lines[at], rng.choice(other[1].split(b"\n")))
    return rng.choice((target, other[0])), b"\n".join(lines)


def check_lines(case: tuple[str | None, bytes]) -> bool:
    """Every line is a task that can be sent, or the error names the first bad one."""
    target, data = case
    try:
        for address, payload in _lines(io.BytesIO(data), target):
            assert is_target(address)
            assert type(payload) is bytes
    except (BadPayload, BadTarget, click.UsageError) as error:
        check_words(error.message, "line ")
        return False
    return True


TARGETS = [
    Target("address", TARGET | st.text(max_size=8), mutate_text, lambda _: check_address, bases=40, damaged=20),
    Target(
        "settings",
        ENVIRONMENTS,
        mutate_environment,
        lambda _: check_environment,
        bases=60,
        damaged=6,
        finds=((CpuWorkerSettings, {"ROTA_WORKER_ID": b"w\xff"}),),
    ),
    Target(
        "jsonl",
        LINES,
        mutate_lines,
        lambda _: check_lines,
        bases=40,
        damaged=15,
        finds=((None, b'{"target": "a", "' + b"x" * 5_000 + b'": 1}'), (None, b'{"target": "' + b"x" * 5_000 + b'"}')),
    ),
]
