"""A model that is ready to run: session, ports, certificate, and what follows from these for each kind of call.

How a call runs (`CallPlan`) is a function of the certificate and of its signature.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rota.common.model_call import Call
from rota.common.work import Provenance
from rota.gpu_worker import empty_extents
from rota.gpu_worker.call_plan import CallPlan, Shape
from rota.gpu_worker.certificate import Certificate, unstable
from rota.gpu_worker.model_io import BoundCall, Extent, OutputShapes, Port, named_extents
from rota.gpu_worker.providers import OpenSession
from rota.gpu_worker.repository import ModelEntry
from rota.gpu_worker.settings import ModelSettings
from rota.tensors.arrays import Array

PLANS_MAX: Final = 256  # signatures per model
KEPT_BYTES_MAX: Final = 32 << 20  # of the buffers of one model's bindings
KEPT_CALLS_MAX: Final = 64
FALLBACK_CHARS_MAX: Final = 256  # of the reason in a provenance

_NOT_LOADED: Final = unstable("it is not loaded")


@dataclass(slots=True)
class LoadedModel:
    """A model that is ready to run. Use it in the executor's thread only."""

    entry: ModelEntry
    settings: ModelSettings
    opened: OpenSession
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    wanted: tuple[str, ...]
    fixed: tuple[str, ...] = ()  # initializers that the graph also lists as inputs
    facts: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: bytes = b""
    certificate: Certificate = _NOT_LOADED
    warm_up: str = ""  # why the probe failed, if it did
    declared_outputs_hold: bool = True
    _limits: dict[Shape, int] = field(default_factory=dict)  # rows of a batch, where larger ones take too long
    _plans: OrderedDict[Any, CallPlan] = field(default_factory=OrderedDict)
    _kept: OrderedDict[Any, BoundCall] = field(default_factory=OrderedDict)
    _kept_bytes: int = 0

    @property
    def provenance(self) -> Provenance:
        """What the results of this model say about where they came from."""
        return provenance_of(self.opened, self.fingerprint, self.certificate)

    @property
    def declared(self) -> dict[str, tuple[Extent, ...]]:
        """The extents of each input as the graph declares them."""
        return {name: port.extents for name, port in self.inputs.items()}

    def plan(self, call: Call) -> CallPlan:
        """Return the plan of a call; only its signature counts."""
        signature = (call.outputs, *[(name, dtype, shape) for name, (dtype, shape, _) in call.inputs.items()])
        plan = self._plans.get(signature)
        if plan is None:
            plan = self._plans[signature] = self._planned(call)
            if len(self._plans) > PLANS_MAX:
                self._plans.popitem(last=False)
        return plan

    def _planned(self, call: Call) -> CallPlan:
        if misfit := self.misfit(call) or empty_extents.misfit(self.declared, call, self.certificate.empty_extents):
            return CallPlan(misfit, call, (), 1, (), 0)
        certified = self.certificate.shape_for(call)
        size = self.certificate.batch_size(call)
        sizes = certified.sizes if certified is not None and size else ()
        at = 1 if sizes else 0  # in a batch the first extents are those of the batch
        inputs = [(name, call.inputs[name].dtype, call.inputs[name].shape[at:]) for name in self.inputs]
        rows = next((tensor.shape[0] for tensor in call.inputs.values()), 1) if sizes else 1
        shape = (call.outputs or self.wanted, bool(sizes), *inputs)
        rows_max = min(sizes[-1], self._limits.get(shape, sizes[-1])) if sizes else 0
        return CallPlan("", call, shape, rows, sizes, rows_max)

    def limit_rows(self, plan: CallPlan, rows: int) -> None:
        """Let no more rows of this shape share a batch from now on. It changes no bits."""
        self._limits[plan.shape] = rows
        for signature, other in self._plans.items():
            if other.shape == plan.shape:
                self._plans[signature] = other._replace(rows_max=min(other.rows_max, rows))

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

    def at_size(self, plan: CallPlan, size: int) -> Call:
        """Return the call of a batch of `size` rows, without data; with size 0 the call itself."""
        if not size:
            return plan.call
        inputs = {name: tensor._replace(shape=(size, *tensor.shape[1:])) for name, tensor in plan.call.inputs.items()}
        return Call(inputs, plan.call.outputs)

    def kept_binding(self, plan: CallPlan, size: int) -> BoundCall:
        """Return a binding with buffers of its own, for a batch of `size` rows; 0 for a call that rides in none.

        The next call with an equal shape and size overwrites its buffers. The least recently used ones are dropped.
        """
        key = (plan.shape, size)
        bound = self._kept.get(key)
        if bound is not None:
            self._kept.move_to_end(key)
            return bound
        call = self.at_size(plan, size)
        bound = self._kept[key] = self.bind(call, self.output_shapes(call), {})
        self._kept_bytes += bound.own_bytes
        while self._kept and (self._kept_bytes > KEPT_BYTES_MAX or len(self._kept) > KEPT_CALLS_MAX):
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.own_bytes
        return bound

    def bind(self, call: Call, outputs: OutputShapes, places: Mapping[str, Array]) -> BoundCall:
        """Return a binding for a call that fits, with `places` instead of own buffers."""
        inputs = {port: call.inputs[name].shape for name, port in self.inputs.items()}
        return BoundCall(self.opened.session, inputs, outputs, places)

    def distrust_declared_outputs(self) -> None:
        """Let the library allocate all outputs from now on, since they differ from the declared shapes."""
        self.declared_outputs_hold = False
        self._kept.clear()
        self._kept_bytes = 0

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
            "class": self.provenance.result_class,
            "certificate": self.certificate.model_class,
            "certificate_reason": self.certificate.reason,
            "warm_up": self.warm_up,
        }


def provenance_of(opened: OpenSession, fingerprint: bytes, certificate: Certificate) -> Provenance:
    """Return what the results of a session with this certificate say about where they came from."""
    result_class: Literal["bitwise", "recorded"] = "bitwise" if certificate.is_repeatable else "recorded"
    fallback = opened.reason[:FALLBACK_CHARS_MAX]
    return Provenance(result_class, opened.provider, fingerprint, certificate.model_class, fallback)


def _names(ports: Mapping[str, Port]) -> str:
    return ", ".join(f'"{name}"' for name in ports)
