"""Tensors of a task: references that travel untouched, whose data is read when it is asked for.

In the sandbox they are files: `/rota/tensors/N` holds the data of tensor N, and what is written to `/rota/tensors/new`
becomes a new one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from math import prod
from typing import Any, Final

from rota.agent.messagepack import pack

FOLDER: Final = "/rota/tensors"
# Size of an element, and its code in `memoryview` and `array`: empty where Python has none.
DTYPES: Final[dict[str, tuple[int, str]]] = {
    "bool": (1, "?"),
    "int8": (1, "b"),
    "int16": (2, "h"),
    "int32": (4, "i"),
    "int64": (8, "q"),
    "uint8": (1, "B"),
    "uint16": (2, "H"),
    "uint32": (4, "I"),
    "uint64": (8, "Q"),
    "float16": (2, ""),
    "float32": (4, "f"),
    "float64": (8, "d"),
    "bfloat16": (2, ""),
    "float8_e4m3fn": (1, ""),
    "float8_e4m3fnuz": (1, ""),
    "float8_e5m2": (1, ""),
    "float8_e5m2fnuz": (1, ""),
}


class _Data:
    """What has a dtype, a shape and data."""

    __slots__ = ("dtype", "shape")

    def __init__(self, dtype: str, shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.shape = shape

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The size of the data in bytes."""
        return self.size * _element(self.dtype)[0]

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        """Return `size` bytes of the data from byte `offset` on; fewer at the end, all if None. One fuel per byte."""
        raise NotImplementedError

    def view(self) -> memoryview[Any]:
        """Return the data as a memoryview of its dtype and shape; of bytes, flat, for those of 16 and 8 bits that
        memoryview does not know.
        """
        data = memoryview(self.read())
        code = _element(self.dtype)[1]
        if not code:
            return data
        if not self.shape or not self.size:
            return data.cast(code)  # type: ignore[call-overload, no-any-return]
        return data.cast(code, self.shape)  # type: ignore[call-overload, no-any-return]

    def array(self) -> array[Any]:
        """Return the data as a flat `array.array`. Raises `TypeError` for a dtype that it does not know."""
        code = _element(self.dtype)[1]
        if code in ("", "?"):
            raise TypeError(f"array.array has no {self.dtype}; use read or view")
        return array(code, self.read())

    def numpy(self) -> Any:
        """Return the data as a numpy array. Raises `ImportError` where the runtime has no numpy."""
        import numpy

        return numpy.frombuffer(self.read(), dtype=self.dtype).reshape(self.shape)


class Tensor(_Data):
    """A tensor of the task. `index`: its place among the task's tensors, of a flow among those of all its messages."""

    __slots__ = ("_made", "digest", "index")

    def __init__(
        self, index: int, digest: bytes, dtype: str, shape: tuple[int, ...], made: _Made | None = None
    ) -> None:
        super().__init__(dtype, shape)
        self.index = index
        self.digest = digest  # of a tensor that this task has made: empty, as its host has not said it
        self._made = made  # of such a tensor

    def usable(self) -> Tensor:
        """Return this tensor; made again, under another index, if a flow made it and has waited since."""
        if self._made is not None:
            self.index = self._made.index(self)
        return self

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        with open(f"{FOLDER}/{self.usable().index}", "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(self.nbytes - offset if size is None else size)

    def __repr__(self) -> str:
        return f"<tensor {self.index}: {self.dtype} {list(self.shape)}>"


class Array(_Data):
    """Data with a dtype and a shape that is in memory: what a flow gives to a model, and gets from one.

    Where a `Tensor` is wanted, `ctx.tensor(a.dtype, a.shape, a.read())` makes one of it.
    """

    __slots__ = ("_bytes",)

    def __init__(self, dtype: str, shape: Iterable[int], data: Any) -> None:
        """`data`: bytes in C order, little-endian, as any object with a buffer, or an iterable of numbers.

        Raises `ValueError` if dtype, shape and data do not fit, `TypeError` for numbers of a dtype without an array.
        """
        super().__init__(dtype, tuple(shape))
        try:
            self._bytes = memoryview(data).tobytes()
        except TypeError:
            code = _element(dtype)[1]
            if not code:
                raise TypeError(f"Python has no numbers of {dtype}: give the bytes of its data") from None
            self._bytes = array("B" if code == "?" else code, data).tobytes()
        _check_size(dtype, self.shape, len(self._bytes))

    def read(self, offset: int = 0, size: int | None = None) -> bytes:
        return self._bytes[offset:] if size is None else self._bytes[offset : offset + size]

    def __repr__(self) -> str:
        return f"<array: {self.dtype} {list(self.shape)}>"


class NewTensors:
    """Makes the tensors of one task after another of one context: an agent has one, a flow as many as messages. Their
    indices follow those that the messages so far have brought.
    """

    __slots__ = ("_next", "step")

    def __init__(self) -> None:
        self._next = 0
        self.step = 0  # what was made in another one is gone

    def begin(self, given: int) -> None:
        """Begin a task. `given`: how many tensors its messages have brought."""
        self._next = given
        self.step += 1

    def make(self, dtype: str, shape: tuple[int, ...], data: Any) -> Tensor:
        """See `Verbs.tensor`."""
        view = memoryview(data)
        _check_size(dtype, shape, view.nbytes)
        made = _Made(self, pack([dtype, list(shape)]) + view.tobytes())
        return Tensor(made.store(), b"", dtype, shape, made)

    def take_index(self) -> int:
        """Return the index of the tensor that was stored now."""
        self._next += 1
        return self._next - 1


class _Made:
    """How a tensor was made."""

    __slots__ = ("_content", "_maker", "_step")

    def __init__(self, maker: NewTensors, content: bytes) -> None:
        self._maker = maker
        self._content = content  # the file that makes it
        self._step = 0

    def store(self) -> int:
        """Make the tensor in this step; return its index."""
        with open(f"{FOLDER}/new", "wb", buffering=0) as file:
            view = memoryview(self._content)
            while view:
                view = view[file.write(view) :]
        self._step = self._maker.step
        return self._maker.take_index()

    def index(self, tensor: Tensor) -> int:
        """Return the index of the tensor in this step."""
        return tensor.index if self._step == self._maker.step else self.store()


def _check_size(dtype: str, shape: tuple[int, ...], size: int) -> None:
    """Raise `ValueError` unless data of `size` bytes has this dtype and shape."""
    width = _element(dtype)[0]
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"a shape holds ints of 0 or more, not {shape!r}")
    if size != prod(shape) * width:
        raise ValueError(f"{dtype} {list(shape)} takes {prod(shape) * width} bytes, not {size}")


def _element(dtype: str) -> tuple[int, str]:
    found = DTYPES.get(dtype)
    if found is None:
        raise ValueError(f"unknown dtype {dtype!r}; known: {', '.join(DTYPES)}")
    return found
