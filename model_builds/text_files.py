"""The files beside a decoder's graph: tokenizer, chat template, settings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

TOKENIZER_FILE: Final = "tokenizer.json"
TEMPLATE_FILE: Final = "chat_template.jinja"
SETTINGS_FILE: Final = "model.toml"


def write_text_files(
    folder: Path,
    tokenizer: dict[str, Any],
    template: str,
    *,
    context: int,
    slots: int,
    stop_tokens: Sequence[int],
    max_tokens: int,
) -> None:
    """Write `tokenizer.json`, `chat_template.jinja` and the `model.toml` that names them."""
    text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
    (folder / TOKENIZER_FILE).write_text(text, encoding="utf-8")
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8", newline="")
    settings = (
        'task = "generate"\n\n[generate]\n'
        f"context = {context}\nslots = {slots}\n"
        f'tokenizer = "{TOKENIZER_FILE}"\ntemplate = "{TEMPLATE_FILE}"\n'
        f"stop_tokens = {list(stop_tokens)}\nmax_tokens = {max_tokens}\n"
    )
    (folder / SETTINGS_FILE).write_text(settings, encoding="utf-8")


def bpe_tokenizer(
    tokens: Sequence[str], merges: Sequence[str], special: Sequence[int], *, digits: bool = False
) -> dict[str, Any]:
    """Return a byte-level BPE as the content of `tokenizer.json`.

    `tokens` in order of their ids; `merges` as "left right" in order of their rank; `special`: ids that stand for
    themselves in a text and are left out when tokens are decoded; `digits`: each digit is a token of its own.
    """
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    splits = [{"type": "Digits", "individual_digits": True}] if digits else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token, "content": tokens[token], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
            for token in special
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*splits, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {text: token for token, text in enumerate(tokens)}, "merges": list(merges),
        },
    }  # fmt: skip
