"""The bytes of the smallest ONNX file: one Relu over four floats, x to y. For tests that need a model and run none."""

from __future__ import annotations

from typing import Final

SMALLEST_MODEL: Final = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x04B\x04\n\x00\x10\x0e"
)
