"""The tokenizer of a decoder: text to tokens, and each token to its bytes.

Text is made from the bytes of tokens and not by the library's decoder, so that the text of the first tokens is always
the beginning of the text of all (generated_text.py). Two kinds of tokenizer.json have such bytes: byte-level ones (GPT,
Llama 3, Qwen, SmolLM), and SentencePiece ones with byte fallback (Llama 2, Gemma, Mistral).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from rota.common.errors import CodeError

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # before the import: no threads, one text at a time

import tokenizers

_SPACE_OF_SENTENCEPIECE: Final = "\u2581"
_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-F]{2})>")


class Vocabulary:
    """The tokenizer in a file. Use it in one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Read `tokenizer.json`. Raises `CodeError` if it cannot be used for generation."""
        self.path = path
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
            definition = json.loads(self._tokenizer.to_str())
        except Exception as error:  # the library raises plain Exception
            raise CodeError(f"{path} is no tokenizer.json that can be read: {str(error)[:300]}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        decoders = _flat(definition.get("decoder"))
        kinds = [decoder.get("type") for decoder in decoders]
        self._is_byte_level = "ByteLevel" in kinds
        if not self._is_byte_level and not {"Metaspace", "ByteFallback"} & {*kinds}:
            raise CodeError(
                f"{path}: its decoder {' + '.join(map(str, kinds)) or 'null'} does not say which bytes a token has; "
                "use a tokenizer with a ByteLevel or a ByteFallback decoder"
            )
        self.strip_start = not self._is_byte_level and bool({"Metaspace", "Strip"} & {*kinds})
        self._added = {
            number: (token.content, bool(token.special))
            for number, token in sorted(self._tokenizer.get_added_tokens_decoder().items())
        }
        names = self._tokenizer.get_vocab()
        self.ids = sorted(names.values())
        self.longest = max(map(len, names), default=0)  # characters of a token as it is written, one for each byte
        self._bytes: dict[int, bytes] = {}

    @property
    def first_added(self) -> str:
        """The token that the tokenizer puts in front of a text by itself, such as `<s>`; "" if none."""
        ids = self._tokenizer.encode("", add_special_tokens=True).ids
        return str(self._tokenizer.id_to_token(ids[0])) if ids else ""

    def tokens_of(self, text: str, *, add_special: bool) -> list[int]:
        """Return the tokens of a text; with those that the tokenizer puts around a text, if `add_special`.

        Special tokens written out in the text become these tokens.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special).ids
        return ids

    def name_of(self, token: int) -> str:
        """Return how a token is written, "" if there is none with this id."""
        return str(self._tokenizer.id_to_token(token) or "")

    def bytes_of(self, token: int) -> bytes:
        """Return the bytes that a token adds to a text: none for special tokens and for ids without a token."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._read(token)
        return found

    def _read(self, token: int) -> bytes:
        if token in self._added:
            content, is_special = self._added[token]
            return b"" if is_special else content.encode()
        written = self.name_of(token)
        if self._is_byte_level:
            return bytes([_BYTE_OF[character] for character in written if character in _BYTE_OF])
        if found := _BYTE_TOKEN.fullmatch(written):
            return bytes([int(found[1], 16)])
        return written.replace(_SPACE_OF_SENTENCEPIECE, " ").encode()


def facts() -> dict[str, str]:
    """Return the version of the tokenizer's library, for the fingerprint."""
    return {"tokenizers": tokenizers.__version__}


def _flat(decoder: Any) -> list[dict[str, Any]]:
    if not isinstance(decoder, dict):
        return []
    if decoder.get("type") == "Sequence":
        return [one for part in decoder.get("decoders", ()) for one in _flat(part)]
    return [decoder]


def _byte_table() -> dict[str, int]:
    """Return the byte of each character of a byte-level token: printable ones stand for themselves, the others follow
    from 256 on, as in GPT-2.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + at): byte for at, byte in enumerate(others)}}


_BYTE_OF: Final = _byte_table()
