"""The bytes of a model's call or result that do not depend on its data. PURE.

Calls of one model, and the results of a batch, usually differ only in their data, so what stands around it is encoded
once. The bytes are those of `encode_call` without wanted outputs, and of `encode_result`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Literal

import msgpack

HEADS_MAX: Final = 256  # each has about 40 bytes per tensor

Described = tuple[str, str, tuple[int, ...], int]
"""A tensor: its name, dtype, shape and bytes."""


class TensorHeads:
    """Heads of calls or results by the tensors that these hold, all inline; keeps the newest."""

    def __init__(self, role: Literal["inputs", "outputs"]) -> None:
        self._role = role
        self._kept: OrderedDict[tuple[Described, ...], tuple[bytes, ...]] = OrderedDict()

    def of(self, tensors: tuple[Described, ...]) -> tuple[bytes, ...]:
        """Return what stands before the data of each tensor. A payload is these and the data in turn."""
        heads = self._kept.get(tensors)
        if heads is None:
            heads = self._kept[tensors] = _encoded(self._role, tensors)
            if len(self._kept) > HEADS_MAX:
                self._kept.popitem(last=False)
        return heads


def _encoded(role: str, tensors: tuple[Described, ...]) -> tuple[bytes, ...]:
    packer = msgpack.Packer()
    start = packer.pack_map_header(1) + packer.pack(role) + packer.pack_map_header(len(tensors))
    heads: list[bytes] = []
    for name, dtype, shape, size_bytes in tensors:
        tensor: bytes = packer.pack([dtype, shape, bytes(size_bytes)])
        heads.append(start + packer.pack(name) + tensor[: len(tensor) - size_bytes])
        start = b""
    return tuple(heads)
