"""The settings of every process: built and checked once from flags and environment, then passed down.

Each setting is one field with its flag, variable, bounds and help text; command.py makes options of them, so that
`rota broker`, `python -m rota.broker` and the children of `rota up` have the same ones. A new setting is a new field
here and a line in docs/CLI.md.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_type_hints

from rota.common import limits
from rota.common.errors import ConfigError
from rota.host.endpoints import Endpoints, RunFolder
from rota.host.service import LOG_LEVELS

DEFAULT_DIR: Final = Path(".rota")


@dataclass(frozen=True, slots=True)
class Option:
    """A setting's flag, variable, help text and bounds."""

    flag: str
    variable: str
    help: str
    low: int = 0
    high: int = limits.NOW_MS_MAX
    choices: tuple[str, ...] = ()


class Setting(NamedTuple):
    """A setting as command.py needs it. `kind` is the plain type, or a union of it and None."""

    option: Option
    kind: Any
    default: Any


def settings_of(settings: type[ProcessSettings]) -> dict[str, Setting]:
    """Return every setting of a process by field name."""
    hints = get_type_hints(settings, include_extras=True)
    return {
        one.name: Setting(hints[one.name].__metadata__[0], hints[one.name].__origin__, one.default)
        for one in dataclasses.fields(settings)
    }


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """The settings of every process."""

    run_dir: Annotated[Path, Option("--dir", "ROTA_DIR", "The run folder: journal, modules, models, sockets.")] = (
        DEFAULT_DIR
    )
    bind: Annotated[
        str,
        Option("--bind", "ROTA_BIND", "tcp://127.0.0.1:PORT instead of socket files; four ports in a row are used."),
    ] = ""
    log_level: Annotated[
        str, Option("--log-level", "ROTA_LOG_LEVEL", "Least important log lines that are shown.", choices=LOG_LEVELS)
    ] = "info"

    def __post_init__(self) -> None:
        """Check every setting against its bounds. Raises `ConfigError` naming the flag and the variable."""
        for name, setting in settings_of(type(self)).items():
            _check(setting.option, getattr(self, name))
        if self.bind:
            self.endpoints()

    def endpoints(self) -> Endpoints:
        """Return the addresses of the broker."""
        return Endpoints.of(self.run_dir, self.bind or None)

    def folder(self) -> RunFolder:
        return RunFolder(self.run_dir)


@dataclass(frozen=True, kw_only=True)
class BrokerSettings(ProcessSettings):
    """The settings of the broker. None of them affects outcomes; those that do are journaled with their lane."""

    heartbeat_ms: Annotated[
        int,
        Option(
            "--heartbeat-ms",
            "ROTA_HEARTBEAT_MS",
            "How often workers report; three missed reports end one.",
            low=20,
            high=60_000,
        ),
    ] = limits.HEARTBEAT_MS
    results_kept_max: Annotated[
        int, Option("--results-kept", "ROTA_RESULTS_KEPT", "How many results are kept for a later ask.")
    ] = limits.RESULTS_KEPT_MAX
    results_kept_bytes: Annotated[
        int, Option("--results-kept-bytes", "ROTA_RESULTS_KEPT_BYTES", "How many bytes of them are kept.")
    ] = limits.RESULTS_KEPT_BYTES
    lanes_bytes: Annotated[
        int,
        Option(
            "--lanes-bytes",
            "ROTA_LANES_BYTES",
            "What the budgets of all lanes may come to: bounds what tasks and states take in memory.",
            low=1,
        ),
    ] = limits.LANES_BYTES_DEFAULT
    tensor_lease_ms: Annotated[
        int, Option("--tensor-lease-ms", "ROTA_TENSOR_LEASE_MS", "How long an unreferenced tensor lives.")
    ] = limits.TENSOR_LEASE_MS
    snapshot_records: Annotated[
        int,
        Option(
            "--snapshot-records",
            "ROTA_SNAPSHOT_RECORDS",
            "Take a snapshot after so many records, for a quick start; 0: their number does not count.",
        ),
    ] = limits.SNAPSHOT_RECORDS
    snapshot_bytes: Annotated[
        int,
        Option(
            "--snapshot-bytes",
            "ROTA_SNAPSHOT_BYTES",
            "Take a snapshot after so many bytes of records; 0: their size does not count.",
        ),
    ] = limits.SNAPSHOT_BYTES
    retain_records: Annotated[
        int,
        Option(
            "--retain-records",
            "ROTA_RETAIN_RECORDS",
            "Cut records before a snapshot once so many follow it; 0: the count cuts nothing.",
        ),
    ] = 0
    retain_days: Annotated[
        int,
        Option(
            "--retain-days",
            "ROTA_RETAIN_DAYS",
            "Cut records before a snapshot once they are so old; 0: age cuts nothing.",
            high=36_500,
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(ProcessSettings):
    """The settings of both kinds of worker."""

    worker: Annotated[
        str, Option("--id", "ROTA_WORKER_ID", "The worker's name, never used twice; made up if not given.")
    ] = ""
    slots: Annotated[
        int,
        Option(
            "--slots",
            "ROTA_SLOTS",
            "Tasks that it takes at once, running and waiting.",
            low=1,
            high=limits.RUN_TASKS_MAX,
        ),
    ] = limits.FOLD_TASKS_MAX * limits.ASSIGNMENTS_PER_WORKER
    bytes_max: Annotated[
        int,
        Option(
            "--bytes",
            "ROTA_BYTES",
            "Bytes of payload and state that it takes at once.",
            low=limits.PAYLOAD_BYTES_MAX,
            high=limits.MESSAGE_BYTES_MAX,
        ),
    ] = limits.ASSIGNMENT_BYTES_MAX * limits.ASSIGNMENTS_PER_WORKER


@dataclass(frozen=True, kw_only=True)
class CpuWorkerSettings(WorkerSettings):
    """The settings of a CPU worker."""

    raw_calls: Annotated[
        bool,
        Option(
            "--raw-calls/--no-raw-calls", "ROTA_RAW_CALLS", "Call WASM through prepared calls (same results, faster)."
        ),
    ] = True
    live_calls: Annotated[
        int,
        Option(
            "--live-calls",
            "ROTA_LIVE_CALLS",
            "Calls of flows that stay in memory between their messages; others run again from their first message.",
            low=0,
            high=limits.LIVE_CALLS_MAX,
        ),
    ] = limits.LIVE_CALLS_DEFAULT


@dataclass(frozen=True, kw_only=True)
class GpuWorkerSettings(WorkerSettings):
    """The settings of a GPU worker."""

    device: Annotated[int, Option("--device", "ROTA_DEVICE", "Which GPU, by number; one worker per GPU.", high=255)] = 0
    require: Annotated[
        Literal["", "cuda", "tensorrt", "directml", "coreml", "migraphx", "cpu"],
        Option(
            "--require",
            "ROTA_REQUIRE",
            "cuda or another provider: fail if it cannot be used. cpu: do not try a GPU. Not given: CUDA if usable, "
            "else the CPU.",
            choices=("", "cuda", "tensorrt", "directml", "coreml", "migraphx", "cpu"),
        ),
    ] = ""
    threads: Annotated[
        int, Option("--threads", "ROTA_THREADS", "Threads of one CPU session; may change bits.", low=1, high=256)
    ] = 1
    model_memory: Annotated[
        int,
        Option(
            "--model-memory",
            "ROTA_MODEL_MEMORY",
            "Bytes that loaded models may take, by estimate; 0: half of the host's memory.",
        ),
    ] = 0
    models_dir: Annotated[
        Path | None, Option("--models", "ROTA_MODELS", "The model folder; else that of the run folder.")
    ] = None

    def models(self) -> Path:
        return self.models_dir if self.models_dir is not None else self.folder().models


def worker_name(pool: str, given: str) -> str:
    """Return the given name, or a new one. The pid is not enough: pids are reused, in containers soon."""
    return given or f"{pool}-{socket.gethostname()[:64]}-{os.getpid()}-{secrets.token_hex(3)}"


def _check(option: Option, value: Any) -> None:
    where = f"{option.flag.split('/')[0]} ({option.variable})"
    if type(value) is int and not option.low <= value <= option.high:
        raise ConfigError(f"{where}: {value} is outside of {option.low} to {option.high}", setting=option.variable)
    if option.choices and value not in option.choices:
        named = ", ".join(repr(choice) for choice in option.choices)
        raise ConfigError(f"{where}: {value!r} is none of {named}", setting=option.variable)
    if isinstance(value, str) and len(value) > 128:
        raise ConfigError(f"{where}: at most 128 characters, got {len(value)}", setting=option.variable)
    if isinstance(value, str) and not _is_text(value):
        raise ConfigError(f"{where}: {value!r} holds bytes that are not UTF-8", setting=option.variable)


def _is_text(value: str) -> bool:
    """Return whether a value can be encoded: bytes that are not UTF-8 arrive as surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
