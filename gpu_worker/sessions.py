"""An LRU cache of loaded models: a session with its ports, its fingerprint and its cached bindings.

Loading checks every file of the model against its manifest, builds the session, and runs the probe, which is also the
warm-up. The probe's result is in the fingerprint. A model that fails the probe (it may refuse the probe's inputs) is
still served, and its description says so.
"""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from rota.common.errors import CodeError, DeviceLost
from rota.common.model_call import DTYPE_BYTES, Call, Tensor
from rota.gpu_worker.fingerprint import digest_of_facts, probe_digest, probe_input, session_facts
from rota.gpu_worker.model_io import BoundCall, OutputShapes, Port, named_extents, ports_of
from rota.gpu_worker.provider_table import Require
from rota.gpu_worker.providers import RUN_ERRORS, OpenSession, error_text, open_session
from rota.gpu_worker.repository import ModelEntry, Repository
from rota.gpu_worker.run_errors import meaning_of
from rota.gpu_worker.settings import FILE_NAME as SETTINGS_FILE
from rota.gpu_worker.watchdog import RunWatchdog
from rota.tensors.arrays import Array

SESSIONS_MAX: Final = 8  # a session holds its weights in memory once or twice
PROBE_MS_MAX: Final = 60_000
PROBE_BYTES_MAX: Final = 64 << 20  # of all inputs; they are made up, and exist twice
_KEPT_CALLS_MAX: Final = 16  # signatures per session whose buffers are cached

Signature = tuple[Any, ...]

logger = logging.getLogger(__name__)


class LoadInterrupted(CodeError):
    """The worker was told to stop while a model was loading."""


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to run. Use it in the executor's thread only."""

    entry: ModelEntry
    opened: OpenSession
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    wanted: tuple[str, ...]
    fixed: tuple[str, ...] = ()  # initializers that the graph also lists as inputs
    facts: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: bytes = b""
    warm_up: str = ""  # why the probe failed, if it did
    declared_outputs_hold: bool = True
    _kept: OrderedDict[Signature, BoundCall] = field(default_factory=OrderedDict)

    def misfit(self, call: Call) -> str:
        """Return a sentence on why a call does not fit this model, or an empty text."""
        for name, tensor in call.inputs.items():
            if name in self.fixed:
                return f'input "{name}" is an initializer of the model: its value stays, leave it out'
            if name not in self.inputs:
                return f'the model has no input "{name}"; it has {_names(self.inputs)}'
            if text := self.inputs[name].misfit(tensor.dtype, tensor.shape):
                return text
        for name, port in self.inputs.items():
            if name not in call.inputs:
                return f'input "{name}" ({port.dtype} {port.shape_text()}) is missing'
        for name in call.outputs:
            if name not in self.outputs:
                return f'the model has no output "{name}"; it has {_names(self.outputs)}'
        return ""

    def output_shapes(self, call: Call) -> OutputShapes:
        """Return the shapes of the wanted outputs, as far as they follow from the declared ones and these inputs."""
        wanted = call.outputs or self.wanted
        if not self.declared_outputs_hold:
            return dict.fromkeys(self.outputs[name] for name in wanted)
        named = named_extents(self.inputs, call)
        return {self.outputs[name]: self.outputs[name].resolved(named) for name in wanted}

    def kept_call(self, call: Call) -> BoundCall | None:
        """Return the cached binding for this call's signature, in which case the call fits the model; else None."""
        signature = _signature(call)
        bound = self._kept.get(signature)
        if bound is not None:
            self._kept.move_to_end(signature)
        return bound

    def keep_call(self, call: Call, outputs: OutputShapes) -> BoundCall:
        """Make a binding with its own buffers and cache it; the next call of this signature overwrites them."""
        bound = self._kept[_signature(call)] = self.bind(call, outputs, {})
        if len(self._kept) > _KEPT_CALLS_MAX:
            self._kept.popitem(last=False)
        return bound

    def bind(self, call: Call, outputs: OutputShapes, places: Mapping[str, Array]) -> BoundCall:
        """Return a binding for a call that fits, with `places` instead of own buffers."""
        inputs = {port: call.inputs[name].shape for name, port in self.inputs.items()}
        return BoundCall(self.opened.session, inputs, outputs, places)

    def distrust_declared_outputs(self) -> None:
        """Let the library allocate all outputs from now on, since they differ from the declared shapes."""
        self.declared_outputs_hold = False
        self._kept.clear()

    def description(self) -> dict[str, Any]:
        """Return a description for producers and operators, in MessagePack's types."""
        return {
            "model": self.entry.name,
            "version": self.entry.version,
            "inputs": {name: [port.dtype, list(port.extents)] for name, port in self.inputs.items()},
            "fixed": list(self.fixed),
            "outputs": {name: [port.dtype, list(port.extents)] for name, port in self.outputs.items()},
            "provider": self.opened.provider,
            "reason": self.opened.reason,
            "fingerprint": self.fingerprint,
            "class": "recorded",
            "warm_up": self.warm_up,
        }


class Sessions:
    """The models used last, by digest."""

    def __init__(
        self, repository: Repository, *, threads: int, require: Require, kept: int, certify: bool = True
    ) -> None:
        assert kept >= 1
        self._repository = repository
        self._probing: dict[bytes, RunWatchdog] = {}  # running warm-ups, by digest
        self._stopping = False
        self._threads = threads
        self._require = require
        self._kept = kept
        self._loaded: OrderedDict[bytes, LoadedModel] = OrderedDict()

    def get(self, digest: bytes) -> LoadedModel:
        """Return the model with this digest, loading it if needed.

        Raises `CodeError` if it is missing, damaged or does not load, `LoadInterrupted` if the worker was told to stop.
        """
        model = self._loaded.get(digest)
        if model is None:
            model = self.load(digest)
            self.keep(digest, model)
        else:
            self._loaded.move_to_end(digest)
        return model

    def has(self, digest: bytes) -> bool:
        """Return whether a model is loaded."""
        return digest in self._loaded

    def load(self, digest: bytes) -> LoadedModel:
        """Load a model and return it. Callable in any thread; raises as `get` does."""
        entry = self._repository.find(digest)
        try:
            return self._load(entry)
        except MemoryError as error:
            raise CodeError(f"this worker has not enough memory to load model {entry.name}: {error}") from error

    def keep(self, digest: bytes, model: LoadedModel) -> None:
        """Add a model to the cache, evicting the least recently used one if it is full."""
        self._loaded[digest] = model
        self._loaded.move_to_end(digest)
        if len(self._loaded) > self._kept:
            self._loaded.popitem(last=False)

    def stop_loading(self) -> None:
        """Interrupt running warm-ups and prevent new ones. Callable from any thread."""
        self._stopping = True
        for watchdog in list(self._probing.values()):
            watchdog.interrupt()

    def clear(self) -> None:
        """Drop all sessions, which frees them."""
        self._loaded.clear()

    def _load(self, entry: ModelEntry) -> LoadedModel:
        entry.check()
        settings = entry.settings()
        opened = open_session(entry.model_path, settings, threads=self._threads, require=self._require)
        model = LoadedModel(
            entry,
            opened,
            ports_of(opened.session.get_inputs(), "input"),
            ports_of(opened.session.get_outputs(), "output"),
            settings.outputs or tuple(output.name for output in opened.session.get_outputs()),
            tuple(one.name for one in opened.session.get_overridable_initializers()),
        )
        named = [name for shapes in settings.shapes for name in shapes]
        for name in (*settings.outputs, *named, *settings.ranges):
            if name not in model.inputs and name not in model.outputs:
                raise CodeError(f"{entry.folder / SETTINGS_FILE} names {name!r}, which the model does not have")
        sets = settings.shape_sets(tuple(model.inputs))
        probe = self._probe(model, sets[0] if sets else {})
        model.facts = session_facts(opened, entry.digest, probe)
        model.fingerprint = digest_of_facts(model.facts)
        if opened.reason:
            logger.warning("model %s %d runs on the CPU: %s", entry.name, entry.version, opened.reason)
        else:
            logger.info("model %s %d runs on %s", entry.name, entry.version, opened.provider)
        return model

    def _probe(self, model: LoadedModel, given: Mapping[str, tuple[int, ...]]) -> str:
        """Run the fixed inputs through the session; return the digest of the output, or why there is none."""
        shapes = {name: given.get(name) or _smallest(port) for name, port in model.inputs.items()}
        inputs = {name: Tensor(port.dtype, shapes[name], b"") for name, port in model.inputs.items()}
        call = Call(inputs, tuple(model.outputs))
        if misfit := model.misfit(call):
            raise CodeError(f"{model.entry.folder / SETTINGS_FILE}: [[shapes]]: {misfit}")
        size_bytes = sum(_size_bytes(tensor) for tensor in inputs.values())
        if size_bytes > PROBE_BYTES_MAX:
            model.warm_up = f"its inputs have {size_bytes} bytes, at most {PROBE_BYTES_MAX} are made up"
            return "none: inputs too large"
        with closing(RunWatchdog()) as watchdog:
            self._probing[model.entry.digest] = watchdog
            try:
                return self._run_probe(model, call, watchdog)
            except MemoryError as error:
                model.warm_up = f"not enough memory: {error}"
                return "none: MemoryError"
            finally:
                del self._probing[model.entry.digest]

    def _run_probe(self, model: LoadedModel, call: Call, watchdog: RunWatchdog) -> str:
        bound = model.bind(call, dict.fromkeys(model.outputs.values()), {})
        for name, (dtype, shape, _) in call.inputs.items():
            bound.fill(name, probe_input(name, dtype, shape).tobytes())
        watchdog.begin_fold()
        if self._stopping:
            watchdog.interrupt()
        options = watchdog.arm(PROBE_MS_MAX)
        try:
            outputs = bound.run(options)
        except RUN_ERRORS as error:
            stopped = watchdog.disarm()
            if stopped == "interrupted":
                raise LoadInterrupted("the worker was told to stop while it loaded the model") from error
            if not stopped and meaning_of(error_text(error), model.opened.provider) == "device":
                raise DeviceLost(error_text(error)) from error
            model.warm_up = f"longer than {PROBE_MS_MAX} ms" if stopped else error_text(error)
            return f"none: {stopped or type(error).__name__}"
        watchdog.disarm()
        return probe_digest(sorted(outputs.items()))


def _signature(call: Call) -> Signature:
    """Return the signature of a call: calls with the same one can share buffers."""
    return (call.outputs, *[(name, dtype, shape, type(data)) for name, (dtype, shape, data) in call.inputs.items()])


def _smallest(port: Port) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else 1 for extent in port.extents)


def _size_bytes(tensor: Tensor) -> int:
    """Return the size of an input of the probe. A zero counts as one, since numpy takes no shape that is too large."""
    return math.prod(max(1, extent) for extent in tensor.shape) * DTYPE_BYTES[tensor.dtype]


def _names(ports: Mapping[str, Port]) -> str:
    return ", ".join(f'"{name}"' for name in ports)
