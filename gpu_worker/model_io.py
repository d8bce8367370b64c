"""IO bindings of a session over our own buffers and over mapped inputs and outputs.

Small tensors are copied into 64-byte aligned buffers, because alignment can change bits. The buffers and their binding
are cached per signature, which is also the fastest way to call the library. Mapped tensors of the store are bound
directly, and large outputs are bound to a draft in the store, so neither is copied on the CPU. An output whose shape is
known only after the run is allocated by the library and copied.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rota.common.errors import CodeError
from rota.common.model_call import DTYPE_BYTES, Call
from rota.gpu_worker.graph import ELEMENT_NUMBERS
from rota.host.float_environment import FloatEnvironment
from rota.tensors.arrays import Array, aligned_empty
from rota.tensors.format import numpy_dtype

Extent = int | str | None  # fixed, named by the model, or free

# The library's names of element types that differ from the dtypes'.
_DTYPE_OF: Final = {
    "float": "float32", "double": "float64", "float8e4m3fn": "float8_e4m3fn", "float8e4m3fnuz": "float8_e4m3fnuz",
    "float8e5m2": "float8_e5m2", "float8e5m2fnuz": "float8_e5m2fnuz",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the model's graph declares it.

    Without extents it is a scalar or of any rank: ONNX Runtime reports both alike, and the kernels check.
    """

    name: str
    dtype: str
    element_type: int
    extents: tuple[Extent, ...]

    def misfit(self, dtype: str, shape: Sequence[int]) -> str:
        """Return a sentence on why a tensor does not fit this input, or an empty text."""
        fits = not self.extents or (
            len(shape) == len(self.extents)
            and all(
                not isinstance(declared, int) or declared == given
                for declared, given in zip(self.extents, shape, strict=True)
            )
        )
        if dtype == self.dtype and fits:
            return ""
        return f'input "{self.name}" must be {self.dtype} {self.shape_text()}, got {dtype} {list(shape)}'

    def shape_text(self) -> str:
        """Return the declared shape as text: `[n, 2048]`, with `?` for a free extent without a name."""
        if not self.extents:
            return "of any shape"
        return f"[{', '.join('?' if extent is None else str(extent) for extent in self.extents)}]"

    def resolved(self, named: Mapping[str, int]) -> tuple[int, ...] | None:
        """Return the shape if all extents are fixed or in `named`, else None."""
        if not self.extents:
            return None
        shape = [extent if isinstance(extent, int) else named.get(extent or "") for extent in self.extents]
        return None if None in shape else tuple(extent for extent in shape if extent is not None)


def ports_of(nodes: Sequence[Any], role: str) -> dict[str, Port]:
    """Return a session's inputs or outputs by name. Raises `CodeError` for a kind that tasks cannot carry."""
    ports = {}
    for node in nodes:
        element = node.type.removeprefix("tensor(").removesuffix(")")
        dtype = _DTYPE_OF.get(element, element)
        if not node.type.startswith("tensor(") or dtype not in ELEMENT_NUMBERS:
            raise CodeError(f'{role} "{node.name}" of the model is a {node.type}; only tensors of numbers can travel')
        # Some exporters write a free extent as a negative one.
        extents = tuple(None if isinstance(n, int) and n < 0 else n for n in node.shape)
        ports[node.name] = Port(node.name, dtype, ELEMENT_NUMBERS[dtype], extents)
    return ports


def named_extents(ports: Mapping[str, Port], call: Call) -> dict[str, int]:
    """Return the values of the model's named extents in a call. A name with two different values is left out."""
    named: dict[str, int] = {}
    ambiguous = []
    for name, tensor in call.inputs.items():
        # Not strict, because a port of any rank declares no extents.
        for declared, given in zip(ports[name].extents, tensor.shape, strict=False):
            if isinstance(declared, str) and named.setdefault(declared, given) != given:
                ambiguous.append(declared)
    for extent in ambiguous:
        named.pop(extent, None)
    return named


OutputShapes = Mapping[Port, tuple[int, ...] | None]
"""The wanted outputs with their shapes; None if known only after the run."""


class BoundCall:
    """An IO binding for one signature, with its buffers. Used by one thread; may be cached and reused.

    `places` holds arrays to bind in place of own buffers: mapped inputs, and drafts for outputs. Outputs whose shape is
    None are allocated by the library in each run.
    """

    def __init__(
        self,
        session: Any,
        inputs: Mapping[Port, tuple[int, ...]],
        outputs: OutputShapes,
        places: Mapping[str, Array],
    ) -> None:
        self._session = session
        self._floats = FloatEnvironment()
        self._binding = session.io_binding()
        self._bytes_of: dict[str, memoryview] = {}
        self.own_bytes = 0  # of its own buffers
        self._arrays: dict[str, Array] = {}
        self._keep: list[Array] = []  # the binding holds only addresses
        for port, shape in inputs.items():
            self._bind_input(port, shape, places.get(port.name))
        self.dtypes = {port.name: port.dtype for port in outputs}
        self._outputs = tuple(outputs)
        self._unsized = tuple(port.name for port, shape in outputs.items() if shape is None)
        for port, declared in outputs.items():
            self._bind_output(port, declared, places.get(port.name))

    def fill(self, name: str, data: bytes | memoryview) -> None:
        """Copy an inline input into its buffer."""
        self._bytes_of[name][:] = data

    def run(self, run_options: Any) -> dict[str, Array]:
        """Run the session and return its outputs: views of the buffers, valid until the next run."""
        for name in self._unsized:
            self._binding.bind_output(name, "cpu")  # else the memory of the last run would be reused for another shape
        with self._floats:
            self._session.run_with_iobinding(self._binding, run_options)
        if not self._unsized:
            return self._arrays
        values = dict(zip((port.name for port in self._outputs), self._binding.get_outputs(), strict=True))
        return {
            port.name: _array_over(values[port.name], port) if port.name in self._unsized else self._arrays[port.name]
            for port in self._outputs
        }

    def _bind_input(self, port: Port, shape: tuple[int, ...], place: Array | None) -> None:
        array = place
        if array is None:
            array = aligned_empty(numpy_dtype(port.dtype), shape)
            self._bytes_of[port.name] = array.reshape(-1).view(np.uint8).data
            self.own_bytes += array.nbytes
        self._keep.append(array)
        self._binding.bind_input(port.name, "cpu", 0, port.element_type, list(shape), array.ctypes.data)

    def _bind_output(self, port: Port, shape: tuple[int, ...] | None, place: Array | None) -> None:
        if shape is None:
            self._binding.bind_output(port.name, "cpu")
            return
        array = aligned_empty(numpy_dtype(port.dtype), shape) if place is None else place
        self.own_bytes += array.nbytes if place is None else 0
        self._arrays[port.name] = array
        self._binding.bind_output(port.name, "cpu", 0, port.element_type, list(shape), array.ctypes.data)


def _array_over(value: Any, port: Port) -> Array:
    """Return a copy of an output allocated by the library, which cannot convert some of our types to numpy."""
    shape: tuple[int, ...] = tuple(value.shape())
    size_bytes = math.prod(shape) * DTYPE_BYTES[port.dtype]
    data = ctypes.string_at(value.data_ptr(), size_bytes) if size_bytes else b""
    return np.frombuffer(data, np.uint8).view(numpy_dtype(port.dtype)).reshape(shape)
