"""The bytes of a result that do not depend on its data. PURE.

The results of a batch differ only in their data, so what stands around it is encoded once. The bytes are those of
`encode_result`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgpack

HEADS_MAX: Final = 256  # each has about 40 bytes per output

Described = tuple[str, str, tuple[int, ...], int]
"""An output: its name, dtype, shape and bytes."""


class ResultHeads:
    """Heads of results by the outputs that these hold; keeps those used last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Described, ...], tuple[bytes, ...]] = OrderedDict()

    def of(self, outputs: tuple[Described, ...]) -> tuple[bytes, ...]:
        """Return what stands before the data of each output. A result is these and the data in turn."""
        heads = self._kept.get(outputs)
        if heads is None:
            heads = self._kept[outputs] = _encoded(outputs)
            if len(self._kept) > HEADS_MAX:
                self._kept.popitem(last=False)
        return heads


def _encoded(outputs: tuple[Described, ...]) -> tuple[bytes, ...]:
    packer = msgpack.Packer()
    start = packer.pack_map_header(1) + packer.pack("outputs") + packer.pack_map_header(len(outputs))
    heads: list[bytes] = []
    for name, dtype, shape, size_bytes in outputs:
        tensor: bytes = packer.pack([dtype, shape, bytes(size_bytes)])
        heads.append(start + packer.pack(name) + tensor[: len(tensor) - size_bytes])
        start = b""
    return tuple(heads)
