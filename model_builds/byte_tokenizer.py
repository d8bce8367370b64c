"""The tokenizer and chat template of random decoders: 256 bytes, three special tokens, and merges of some words."""

from __future__ import annotations

from typing import Any, Final

from rota.model_builds.text_files import bpe_tokenizer

VOCABULARY: Final = 300
START_TOKEN: Final = 1
STOP_TOKEN: Final = 2
SPECIAL: Final = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

TEMPLATE: Final = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Enough merges that some words are one token and others several; a leading space is Ġ.
_WORDS: Final = ("user", "system", "assistant", "tool", "Ġthe", "Ġand", "Ġis", "Ġof", "ing", "tion", "true", "false")


def tokenizer_json() -> dict[str, Any]:
    """Return the content of `tokenizer.json`: VOCABULARY tokens."""
    merges = _merges()
    tokens = [*SPECIAL, *_byte_characters(), *("".join(merge.split(" ")) for merge in merges)]
    assert len(tokens) <= VOCABULARY, f"{len(tokens)} tokens"
    tokens += [f"<|unused_{number}|>" for number in range(VOCABULARY - len(tokens))]
    special = [*range(len(SPECIAL)), *range(len(SPECIAL) + 256 + len(merges), VOCABULARY)]
    return bpe_tokenizer(tokens, merges, special)


def _byte_characters() -> list[str]:
    """Return the characters by which byte-level tokenizers write the 256 bytes, in the order of the bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    shown = {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}
    return [shown[byte] for byte in range(256)]


def _merges() -> list[str]:
    merges: dict[str, None] = {}
    for word in _WORDS:
        for end in range(1, len(word)):
            if len(merges) < VOCABULARY - 256 - len(SPECIAL):
                merges.setdefault(f"{word[:end]} {word[end]}")
    return list(merges)
