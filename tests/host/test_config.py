"""Settings: their sources, bounds, and error messages."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rota.common.errors import ConfigError
from rota.host.command import settings_command
from rota.host.config import (
    BrokerSettings,
    CpuWorkerSettings,
    GpuWorkerSettings,
    ProcessSettings,
    WorkerSettings,
    settings_of,
    worker_name,
)
from rota.host.service import Exit

CLASSES = [BrokerSettings, CpuWorkerSettings, GpuWorkerSettings]


@pytest.mark.parametrize("settings", CLASSES)
def test_every_setting_has_a_flag_and_a_variable(settings: type[ProcessSettings]) -> None:
    """Goal: each setting can be given both ways. Method: the table of options, without doubles."""
    options = [setting.option for setting in settings_of(settings).values()]
    assert all(option.flag.startswith("--") and option.variable.startswith("ROTA_") for option in options)
    assert len({option.flag for option in options}) == len({option.variable for option in options}) == len(options)
    assert settings() == settings()


@pytest.mark.parametrize(
    ("settings", "values", "named"),
    [
        (BrokerSettings, {"heartbeat_ms": 1}, "--heartbeat-ms (ROTA_HEARTBEAT_MS): 1 is outside of 20 to 60000"),
        (BrokerSettings, {"log_level": "loud"}, "--log-level (ROTA_LOG_LEVEL): 'loud' is none of"),
        (BrokerSettings, {"bind": "tcp://0.0.0.0:4100"}, "CURVE"),
        (WorkerSettings, {"slots": 0}, "--slots (ROTA_SLOTS)"),
        (WorkerSettings, {"worker": "x" * 129}, "--id (ROTA_WORKER_ID)"),
        (GpuWorkerSettings, {"require": "tpu"}, "--require (ROTA_REQUIRE): 'tpu' is none of"),
    ],
)
def test_bad_setting_is_named(settings: type[ProcessSettings], values: dict[str, object], named: str) -> None:
    """Goal: the message says which setting, and what it may be. Method: one bad value of each sort."""
    with pytest.raises(ConfigError) as caught:
        settings(**values)
    assert named in caught.value.message


def run(*arguments: str, **variables: str) -> tuple[int, list[GpuWorkerSettings], str]:
    seen: list[GpuWorkerSettings] = []

    def serve(settings: GpuWorkerSettings) -> Exit:
        seen.append(settings)
        return Exit.OK

    command = settings_command("gpu-worker", GpuWorkerSettings, lambda: serve, "Help.")
    assert isinstance(command, click.Command)
    result = CliRunner().invoke(command, arguments, env=variables)
    return result.exit_code, seen, result.output


def test_command_builds_the_settings_from_flags_and_variables() -> None:
    """Goal: flags win over variables, variables over defaults. Method: some of each."""
    code, seen, _ = run("--dir", "a", "--device", "2", ROTA_DIR="b", ROTA_REQUIRE="cpu", ROTA_LOG_LEVEL="debug")
    assert code == Exit.OK
    assert seen == [GpuWorkerSettings(run_dir=Path("a"), device=2, require="cpu", log_level="debug")]
    assert seen[0].models() == Path("a").absolute() / "models"
    code, seen, _ = run()
    assert (code, seen) == (Exit.OK, [GpuWorkerSettings()])


def test_command_ends_with_the_exit_code_of_a_bad_setting() -> None:
    """Goal: a script can tell a bad setting from a failure. Method: one out of bounds, one that is no number."""
    assert run("--threads", "0")[:2] == (Exit.CONFIG, [])
    assert run("--threads", "many")[:2] == (Exit.USAGE, [])


def test_worker_names_are_never_used_twice() -> None:
    """Goal: a worker that died is not taken for its successor. Method: two names of one process."""
    assert worker_name("cpu", "mine") == "mine"
    assert worker_name("cpu", "") != worker_name("cpu", "")
    assert worker_name("gpu", "").startswith("gpu-")


def test_a_worker_id_that_cannot_travel_is_refused() -> None:
    """Goal: a message here, not a UnicodeEncodeError when the worker registers. Method: a byte that is no UTF-8, as the
    operating system hands it over. Found by tests/fuzz.
    """
    with pytest.raises(ConfigError, match=r"ROTA_WORKER_ID.*not UTF-8"):
        CpuWorkerSettings(worker=os.fsdecode(b"w\xff"))
