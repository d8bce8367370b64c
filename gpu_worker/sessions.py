"""Loads models: checks the files, builds the session, runs the probe, gets the certificate.

The probe is also the warm-up, and its result is in the fingerprint. A model that fails the probe (it may refuse the
probe's inputs) is still served, and its description says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from rota.common.errors import CodeError
from rota.common.model_call import DTYPE_BYTES, Call, Tensor
from rota.gpu_worker.certificate import Certificate
from rota.gpu_worker.certification import certificate_of
from rota.gpu_worker.fingerprint import digest_of_facts, probe_digest, probe_input, session_facts
from rota.gpu_worker.generation import load_text_model
from rota.gpu_worker.loaded_model import LoadedModel, provenance_of
from rota.gpu_worker.model_io import Port, ports_of
from rota.gpu_worker.provider_table import Require
from rota.gpu_worker.providers import RUN_ERRORS, OpenSession, check_device, error_text, open_session
from rota.gpu_worker.repository import ModelEntry
from rota.gpu_worker.residents import Resident
from rota.gpu_worker.settings import FILE_NAME as SETTINGS_FILE
from rota.gpu_worker.settings import ModelSettings
from rota.gpu_worker.text_encoder import TextEncoder, text_libraries
from rota.gpu_worker.watchdog import RunWatchdog
from rota.tensors.store import TensorStore

PROBE_MS_MAX: Final = 60_000
PROBE_BYTES_MAX: Final = 64 << 20  # of all inputs; they are made up, and exist twice

logger = logging.getLogger(__name__)


class LoadInterrupted(CodeError):
    """The worker was told to stop while a model was loading."""


class ModelLoader:
    """Loads models in any thread, several at once."""

    def __init__(
        self, *, threads: int, require: Require, tensors: TensorStore | None, certificates: Path | None = None
    ) -> None:
        """`tensors` is for the large results of models that encode texts. `certificates`: see `certificate_of`."""
        self._probing: dict[bytes, RunWatchdog] = {}  # running warm-ups, by digest
        self._stopping = False
        self._threads = threads
        self._require = require
        self._tensors = tensors
        self._certificates = certificates

    def load(self, entry: ModelEntry) -> Resident:
        """Load a model and return it.

        Raises `CodeError` if it is damaged or does not load, `LoadInterrupted` if the worker was told to stop.
        """
        try:
            settings = entry.settings()
            if settings.task == "generate":
                return self._load_generating(entry, settings)
            model = self.session(entry, settings)
            model.certificate = self._certificate(entry, model.opened, model.facts)
            _log_provider(entry, model.opened)
            encoding = None
            if settings.text is not None:
                encoding = TextEncoder(entry.folder, settings, model.inputs, model.outputs, self._tensors)
            return Resident(entry, model.provenance, model.certificate, model, encoding)
        except MemoryError as error:
            raise CodeError(f"this worker has not enough memory to load model {entry.name}: {error}") from error

    def stop(self) -> None:
        """Interrupt running warm-ups and probes, and prevent new ones. Callable from any thread."""
        self._stopping = True
        for watchdog in list(self._probing.values()):
            watchdog.interrupt()

    def _load_generating(self, entry: ModelEntry, settings: ModelSettings) -> Resident:
        entry.check()
        model = load_text_model(entry, settings, threads=self._threads, require=self._require)
        certificate = self._certificate(entry, model.opened, model.facts)
        model.apply(certificate.decoder)
        opened = model.opened
        provenance = provenance_of(opened, digest_of_facts(model.facts), certificate)
        _log_provider(entry, opened)
        return Resident(entry, provenance, certificate, generating=model)

    def _certificate(self, entry: ModelEntry, opened: OpenSession, facts: Mapping[str, Any]) -> Certificate:
        found = certificate_of(
            entry,
            opened,
            facts,
            threads=self._threads,
            is_stopping=lambda: self._stopping,
            say=lambda text: logger.info("model %s %d: %s", entry.name, entry.version, text),
            keep_in=self._certificates,
        )
        if self._stopping:
            raise LoadInterrupted("the worker was told to stop while it loaded the model")
        return found

    def session(self, entry: ModelEntry, settings: ModelSettings) -> LoadedModel:
        """Load the session of a model without its certificate, for the process that probes it."""
        entry.check()
        opened = open_session(entry.model_path, settings, threads=self._threads, require=self._require)
        model = LoadedModel(
            entry,
            settings,
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
        if settings.text is not None:
            model.facts = {**model.facts, "text": text_libraries()}
        model.fingerprint = digest_of_facts(model.facts)
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
            bound.fill(name, probe_input(name, dtype, shape, model.settings.ranges.get(name)).tobytes())
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
            if not stopped:
                check_device(error, model.opened.provider)
            model.warm_up = f"longer than {PROBE_MS_MAX} ms" if stopped else error_text(error)
            return f"none: {stopped or type(error).__name__}"
        watchdog.disarm()
        return probe_digest(sorted(outputs.items()))


def _log_provider(entry: ModelEntry, opened: OpenSession) -> None:
    if opened.reason:
        logger.warning("model %s %d runs on the CPU: %s", entry.name, entry.version, opened.reason)
    else:
        logger.info("model %s %d runs on %s", entry.name, entry.version, opened.provider)


def _smallest(port: Port) -> tuple[int, ...]:
    return tuple(extent if isinstance(extent, int) else 1 for extent in port.extents)


def _size_bytes(tensor: Tensor) -> int:
    """Return the size of an input of the probe. A zero counts as one, since numpy takes no shape that is too large."""
    return math.prod(max(1, extent) for extent in tensor.shape) * DTYPE_BYTES[tensor.dtype]
