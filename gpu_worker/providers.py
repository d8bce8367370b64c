"""Builds ONNX Runtime sessions: on a device strictly, or on the CPU with the reason. Only this file creates any.

A session either runs where it says or is not built. ONNX Runtime falls back silently, per session and per node, so a
provider is requested alone and with `session.disable_cpu_ep_fallback`, and errors are reported. The settings below
and the options in provider_table.py decide bits: each is in the fingerprint, and a change of one changes the results of
every model. What they do, and what was measured without them: docs/MODELS.md, "Sessions".
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as native

from rota.common.errors import CodeError, ConfigError, DeviceLost
from rota.gpu_worker.hardware import gpu_facts
from rota.gpu_worker.packages import package_conflict
from rota.gpu_worker.provider_table import AUTOMATIC, CPU, NAMES, PROVIDERS, Provider, Require
from rota.gpu_worker.run_errors import is_device_lost, meaning_of, plain_text, says_no_memory, why_not_loaded
from rota.gpu_worker.settings import ModelSettings
from rota.host.float_environment import FloatEnvironment

Session = Any  # onnxruntime ships no types

# Every error of the library; they have no common base but Exception.
RUNTIME_ERRORS: Final = (
    native.EPFail, native.EngineError, native.Fail, native.InvalidArgument, native.InvalidGraph, native.InvalidProtobuf,
    native.ModelLoadCanceled, native.ModelLoaded, native.ModelRequiresCompilation, native.NoModel, native.NoSuchFile,
    native.NotFound, native.NotImplemented, native.RuntimeException,
)  # fmt: skip

# Calls through an IO binding raise a plain RuntimeError with the status in its text.
RUN_ERRORS: Final = (*RUNTIME_ERRORS, RuntimeError)

# Prepacking stays on: without it, batch 1 and 8 differ. session.dynamic_block_base stays unset: with it, runs differ.
SESSION_ENTRIES: Final = {
    "session.record_ep_graph_assignment_info": "1",
    "session.set_denormal_as_zero": "0",
}
STRICT_ENTRY: Final = "session.disable_cpu_ep_fallback"

_GRAPH_LEVELS: Final = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "layout": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_LAYOUT,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

# One Relu over four floats as an ONNX file: the smallest model that needs a device.
_SMALLEST_MODEL: Final = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04B\x04\n\x00\x10\x0e"
)

onnxruntime.set_default_logger_severity(3)  # errors only; warnings are captured below or raised
onnxruntime.disable_telemetry_events()  # the package also reads ORT_DISABLE_TELEMETRY


@dataclass(frozen=True, slots=True)
class OpenSession:
    """A session and its provider. `reason` says why it is not on the wanted one, if it is on the CPU instead."""

    session: Session
    provider: str
    reason: str
    settings: tuple[tuple[str, str], ...]


class _NotBuilt(Exception):
    """ONNX Runtime refused a session; `said` is what it wrote to stderr."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.said = said


class _NotThere(Exception):
    """The wanted provider cannot run the model; the text says why."""


class Choice(NamedTuple):
    """Where a worker's models run. `require` is for `open_session`; `reason` says why `provider` is the CPU instead."""

    provider: str
    reason: str
    require: Require


_used: Final[dict[str, bool]] = {}  # the devices on which this process has built a session


def choose(device: str, *, require: bool) -> Choice:
    """Choose the provider of a worker. "auto" is CUDA if there is one, else the CPU, as is "cuda" without `require`.

    The other providers are always required. Raises `ConfigError` for an unknown name, or if a required provider cannot
    be had.
    """
    if device not in NAMES:
        raise ConfigError(f"there is no device {device!r}: use {', '.join(NAMES)}")
    if require and device == "auto":
        raise ConfigError(f"a required device must be named: {', '.join(NAMES[1:])}")
    if device == "cpu":
        return Choice("cpu", "", "cpu")
    wanted = AUTOMATIC if device == "auto" else device
    falls_back = wanted == AUTOMATIC and not require
    reason = why_not(wanted)
    if reason and not falls_back:
        raise ConfigError(f"{PROVIDERS[wanted].title} is required and cannot be had: {reason}", reason=reason)
    return Choice("cpu" if reason else wanted, reason, "auto" if falls_back else cast(Require, device))


def open_session(path: Path, settings: ModelSettings, *, threads: int, require: Require) -> OpenSession:
    """Build the session of the model at `path`: on the named provider, or on CUDA if all of it can run there, else on
    the CPU.

    Raises `CodeError` if the model cannot be loaded or cannot run on the provider named by `require`, `MemoryError` if
    host or device have too little memory for it now, `DeviceLost` if no model can run there any more.
    """
    return _open(str(path), str(path), settings, settings.threads or threads, require)


def why_not(provider: str) -> str:
    """Try a provider with a tiny model; return why it is unavailable, or an empty text. For start-up and doctor."""
    try:
        _open_on(provider, _SMALLEST_MODEL, ModelSettings(), 1)
    except _NotThere as error:
        return _why(provider, error)
    except DeviceLost as error:
        return error.message
    return ""


def offered() -> tuple[str, ...]:
    """Return the providers that the installed ONNX Runtime was built with, whether they work or not."""
    names = onnxruntime.get_available_providers()
    return tuple(name for name, row in PROVIDERS.items() if row.runtime_name in names)


def error_text(error: Exception) -> str:
    """Return an error of the library in one line, without what depends on its build or on the host."""
    return plain_text(str(error))


def check_device(error: Exception, provider: str) -> None:
    """Raise `DeviceLost` if an error of a run on this provider says that no run will succeed there any more."""
    text = error_text(error)
    if meaning_of(text, provider) == "device":
        raise DeviceLost(text) from error


def _open(model: str | bytes, title: str, settings: ModelSettings, threads: int, require: Require) -> OpenSession:
    reason = ""
    if require != "cpu":
        wanted = AUTOMATIC if require == "auto" else require
        try:
            return _open_on(wanted, model, settings, threads)
        except _NotThere as error:
            reason = _why(wanted, error)
        if require != "auto":
            text = f"{title} cannot run on {PROVIDERS[wanted].title}, which this worker requires: {reason}"
            raise CodeError(text, reason=reason)
    options = _session_options(settings, threads)
    try:
        session, _ = _build(model, options, [(CPU, {})])
    except _NotBuilt as error:
        if says_no_memory(str(error)):
            raise MemoryError(str(error)) from error
        raise CodeError(f"{title} cannot be loaded: {why_not_loaded(str(error), onnxruntime.__version__)}") from error
    return OpenSession(session, "cpu", reason, _settings_of(settings, threads, {}, strict=False))


def _why(provider: str, error: _NotThere) -> str:
    """Return why a provider is unavailable. Without a device for it, nothing else that is missing matters."""
    needs_nvidia = provider in ("cuda", "tensorrt")
    return "no CUDA device" if needs_nvidia and not gpu_facts() else str(error)


def _open_on(name: str, model: str | bytes, settings: ModelSettings, threads: int) -> OpenSession:
    """Build a session on one provider, strictly. Raises `_NotThere`, or `DeviceLost` if it has worked before."""
    provider = PROVIDERS[name]
    if provider.runtime_name not in onnxruntime.get_available_providers():
        has = f"the installed {onnxruntime.package_name} {onnxruntime.__version__} has no {provider.title}"
        raise _NotThere(f"{has}: {provider.package}")
    strict = not settings.allow_cpu_nodes
    options = _session_options(settings, threads)
    if strict:
        options.add_session_config_entry(STRICT_ENTRY, "1")
    if name in ("cuda", "tensorrt"):
        _load_cuda_libraries()
    try:
        session, said = _build(model, options, _provider_list(provider, strict=strict))
    except _NotBuilt as error:
        if _used.get(name) and is_device_lost(str(error)):
            raise DeviceLost(str(error)) from error
        if _used.get(name) and says_no_memory(str(error)):  # no reason to run elsewhere: it depends on the other models
            raise MemoryError(f"{provider.title} refuses it: {error}") from error
        raise _NotThere(_reason(provider, error.said, str(error))) from error
    # A graph without nodes always passes the strict check, and a session that fails it falls back by itself.
    if session.get_providers()[0] != provider.runtime_name:
        raise _NotThere(_reason(provider, said, ""))
    _used[name] = True
    return OpenSession(session, name, "", _settings_of(settings, threads, provider.options, strict=strict))


def _provider_list(provider: Provider, *, strict: bool) -> list[tuple[str, dict[str, str]]]:
    listed = [(provider.runtime_name, dict(provider.options))]
    if provider.beside:
        other = PROVIDERS[provider.beside]
        listed.append((other.runtime_name, dict(other.options)))
    return listed if strict else [*listed, (CPU, {})]


def _session_options(settings: ModelSettings, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = _GRAPH_LEVELS[settings.graph_level]
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    for key, value in SESSION_ENTRIES.items():
        options.add_session_config_entry(key, value)
    return options


def _settings_of(
    settings: ModelSettings, threads: int, provider_options: Mapping[str, str], *, strict: bool
) -> tuple[tuple[str, str], ...]:
    """Return the settings of a session, for the fingerprint."""
    entries = {
        "threads": str(threads),
        "inter_op_threads": "1",
        "execution_mode": "sequential",
        "graph_level": settings.graph_level,
        "deterministic_compute": "1",
        **SESSION_ENTRIES,
        **({STRICT_ENTRY: "1"} if strict else {}),
        **{f"provider.{key}": value for key, value in provider_options.items()},
    }
    return tuple(sorted(entries.items()))


def _build(model: str | bytes, options: Any, providers: list[tuple[str, dict[str, str]]]) -> tuple[Session, str]:
    """Create a session; return it and what the library wrote to stderr."""
    with _captured_stderr() as said:
        try:
            with FloatEnvironment():  # constants are folded here, and the session's threads start with these settings
                # Otherwise the package tries other providers after some failures, in runs too, and only prints that.
                session = onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
        except (*RUN_ERRORS, ValueError) as error:
            raise _NotBuilt(error_text(error), said()) from error
        return session, said()


def _reason(provider: Provider, said: str, error: str) -> str:
    """Return in one line why a provider failed. The cause is on stderr; the exception has only a consequence of it."""
    if conflict := package_conflict():
        return conflict
    if found := re.search(r"with error: (.+)", said):
        needs = f" (needs CUDA {onnxruntime.cuda_version} and cuDNN 9)" if provider.title == "CUDA" else ""
        return f"the {provider.title} provider cannot be loaded: {found[1].strip()}{needs}"
    if error and "assigned to the default CPU EP" not in error:
        return error
    if found := re.search(rf"\[[EW]:onnxruntime[^\]]*\] (.*{provider.title}.*)", said, re.IGNORECASE):
        return plain_text(found[1])
    return (
        "ONNX Runtime puts some of its nodes on the CPU; "
        "allow_cpu_nodes = true in model.toml accepts that, under a fingerprint of its own"
    )


def _load_cuda_libraries() -> None:
    """Load the CUDA libraries installed by pip, if any; otherwise only those on the system's path are found."""
    if importlib.util.find_spec("nvidia") is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints the libraries that it cannot find
            onnxruntime.preload_dlls()


@contextlib.contextmanager
def _captured_stderr() -> Iterator[Callable[[], str]]:
    """Capture what native code writes to file descriptor 2; yield a function that returns it so far.

    The library reports the cause of a failed provider nowhere else. Other lines, such as another thread's log, are
    passed on afterwards.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile(buffering=0) as file:
        os.dup2(file.fileno(), 2)

        def said() -> str:
            # Descriptor 2 shares this file's position; reading to the end leaves it at the end for the next write.
            file.seek(0)
            return file.read().decode(errors="replace")

        try:
            yield said
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            _pass_on(said())


_OWN_LINE: Final = re.compile(r"\x1b\[|\d{4}-\d\d-\d\d [\d:.]+ \[[VIWEF]:onnxruntime")


def _pass_on(text: str) -> None:
    others = [line for line in text.splitlines() if line and not _OWN_LINE.match(line)]
    if others:
        os.write(2, ("\n".join(others) + "\n").encode())
