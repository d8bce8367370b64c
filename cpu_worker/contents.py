"""Reads modules, components and bundles from the folder of modules, by digest, and checks what they hold.

A bundle names its program by digest; that is a module of the same folder.
"""

from __future__ import annotations

from pathlib import Path

from rota.common.bundle import Bundle, decode_bundle
from rota.common.code_kinds import IS_BUNDLE, IS_MODULE, content_file
from rota.common.digests import digest as digest_of
from rota.common.errors import CodeError


class Contents:
    """The folder of modules, as a worker reads it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def module(self, digest: bytes) -> bytes:
        """Return the bytes of a module or component. Raises `CodeError` if they are missing or damaged."""
        return self._read(digest, IS_MODULE)

    def bundle(self, digest: bytes) -> Bundle:
        """Return a bundle. Raises `CodeError` if it is missing or damaged."""
        return decode_bundle(self._read(digest, IS_BUNDLE))

    def _read(self, digest: bytes, content: str) -> bytes:
        path = self._folder / content_file(digest, content)
        what = "bundle" if content == IS_BUNDLE else "module"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise CodeError(f"{what} file {path.name} is not in {self._folder}: deploy it again") from None
        except OSError as error:
            raise CodeError(
                f"{what} file {path.name} in {self._folder} cannot be read: {error.strerror}; remove what is there and "
                "deploy it again"
            ) from None
        if digest_of(data) != digest:
            raise CodeError(f"{what} file {path.name} is damaged: its content has another digest; deploy it again")
        return data
