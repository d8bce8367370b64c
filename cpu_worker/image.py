"""What is kept of a runtime and of its images: compiled code, and the facts that an instance needs beside it.

Both are artefacts, so whoever reads them here has checked our MAC. They are files in memory, since the engine maps
them: the code comes first, then the facts as a MessagePack array, then the size of these.
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol

import msgspec

from rota.cpu_worker.module_split import SplitProgram
from rota.host.memory_file import MemoryFile

FORMAT: Final = 1  # part of the artefacts' names: raise it when the layout of what is kept changes
PROGRAM_SUFFIX: Final = ".program"
BASE_SUFFIX: Final = ".base"
IMAGE_SUFFIX: Final = ".image"

_SIZE_BYTES: Final = 8


class CompiledProgram(NamedTuple):
    """A runtime's program."""

    native: MemoryFile
    facts: SplitProgram


class ImageFacts(NamedTuple):
    """Of an instance that was stopped, what is not in its memory."""

    pages: int  # of the memory
    globals: tuple[int, ...]  # the bits of the program's mutable globals
    note: bytes  # of the driver
    data_bytes: int  # of the memory that is not zero, from the first to the last such page
    fuel: int  # that making it took, for people


class Image(NamedTuple):
    """An instance that was stopped. `native`: a compiled module that exports its memory."""

    native: MemoryFile
    facts: ImageFacts


class ArtefactWriter(Protocol):
    """Where an artefact goes."""

    def write(self, data: bytes | bytearray, /) -> object: ...


def write(out: ArtefactWriter, native: bytes | bytearray, facts: SplitProgram | ImageFacts) -> None:
    """Write compiled code and facts."""
    encoded = msgspec.msgpack.encode(facts)
    out.write(native)
    out.write(encoded + len(encoded).to_bytes(_SIZE_BYTES, "little"))


def file_of(native: bytes | bytearray, facts: SplitProgram | ImageFacts) -> MemoryFile:
    """Return compiled code and facts as a file."""
    made = MemoryFile()
    write(made, native, facts)
    made.seal()
    return made


def read_program(file: MemoryFile) -> CompiledProgram:
    return CompiledProgram(file, _PROGRAM.decode(_facts(file)))


def read_image(file: MemoryFile) -> Image:
    return Image(file, _IMAGE.decode(_facts(file)))


def _facts(file: MemoryFile) -> bytes:
    end = file.size() - _SIZE_BYTES
    size = int.from_bytes(file.read(end, _SIZE_BYTES), "little")
    return file.read(end - size, size)


_PROGRAM: Final = msgspec.msgpack.Decoder(SplitProgram)
_IMAGE: Final = msgspec.msgpack.Decoder(ImageFacts)
