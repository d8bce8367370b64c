"""The fixtures of the sandbox, for the tests of this folder."""

from __future__ import annotations

from sandbox_kit import compiled_dir, tensor, world

__all__ = ["compiled_dir", "tensor", "world"]
