"""What is kept of a runtime and of its images: compiled code, and what an instance needs beside it. PURE.

Both are artefacts, so `decode` gets bytes that carry our MAC; they are MessagePack arrays.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from rota.cpu_worker.module_split import SplitProgram

PROGRAM_SUFFIX: Final = ".program"
BASE_SUFFIX: Final = ".base"
IMAGE_SUFFIX: Final = ".image"


class CompiledProgram(NamedTuple):
    """A runtime's program, and the module (not compiled) of the memory that it begins with."""

    native: bytes
    program: SplitProgram
    memory: bytes


class Image(NamedTuple):
    """An instance that was stopped. `native`: a compiled module that exports its memory."""

    native: bytes
    pages: int  # of the memory
    globals: tuple[int, ...]  # the bits of the program's mutable globals
    note: bytes  # of the driver
    data_bytes: int  # of the memory that is not zero, from the first to the last such page
    fuel: int  # that making it took, for people


def encode(value: CompiledProgram | Image) -> bytes:
    return msgspec.msgpack.encode(value)


def decode_program(data: bytes) -> CompiledProgram:
    return _PROGRAM.decode(data)


def decode_image(data: bytes) -> Image:
    return _IMAGE.decode(data)


_PROGRAM: Final = msgspec.msgpack.Decoder(CompiledProgram)
_IMAGE: Final = msgspec.msgpack.Decoder(Image)
