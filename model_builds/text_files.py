"""The files beside a graph that handles text: tokenizer, chat template, settings, and where the model comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

TOKENIZER_FILE: Final = "tokenizer.json"
TEMPLATE_FILE: Final = "chat_template.jinja"
SETTINGS_FILE: Final = "model.toml"
ORIGIN_FILE: Final = "ORIGIN.txt"

# Padding to few lengths: each is a shape of its own, which the worker probes and batches by itself.
BUCKETS: Final = (16, 32, 64, 128, 256)


def write_decoder_files(
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
    _write_tokenizer(folder, tokenizer)
    _write(folder / TEMPLATE_FILE, template)
    _write(
        folder / SETTINGS_FILE,
        'task = "generate"\n\n[generate]\n'
        f"context = {context}\nslots = {slots}\n"
        f'tokenizer = "{TOKENIZER_FILE}"\ntemplate = "{TEMPLATE_FILE}"\n'
        f"stop_tokens = {list(stop_tokens)}\nmax_tokens = {max_tokens}\n",
    )


def write_embedder_files(
    folder: Path, tokenizer: dict[str, Any], buckets: Sequence[int] = BUCKETS, rows_max: int | None = None
) -> None:
    """Write `tokenizer.json` and the `model.toml` of an encoder whose token vectors are averaged and normalised.

    `rows_max`: the largest batch, and so the largest that is probed; None: the default.
    """
    _write_tokenizer(folder, tokenizer)
    head = 'task = "embed"\n' + ("" if rows_max is None else f"rows_max = {rows_max}\n")
    settings = f'{head}\n[text]\n{_text_settings(buckets)}pooling = "mean"\nnormalize = true\n'
    _write(folder / SETTINGS_FILE, settings)


def write_classifier_files(
    folder: Path, tokenizer: dict[str, Any], labels: Sequence[str], buckets: Sequence[int] = BUCKETS
) -> None:
    """Write `tokenizer.json` and the `model.toml` of an encoder that gives a score to each of `labels`."""
    _write_tokenizer(folder, tokenizer)
    settings = f"labels = {json.dumps(list(labels))}\n" + 'activation = "softmax"\n'
    _write(folder / SETTINGS_FILE, f'task = "classify"\n\n[text]\n{_text_settings(buckets)}{settings}')


def write_origin(folder: Path, text: str, licence: bytes) -> None:
    """Write where the model comes from and what was changed, and its licence."""
    _write(folder / ORIGIN_FILE, text)
    (folder / "LICENSE").write_bytes(licence)


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


def _text_settings(buckets: Sequence[int]) -> str:
    return f'tokenizer = "{TOKENIZER_FILE}"\nbuckets = {list(buckets)}\nlength_max = {buckets[-1]}\n'


def _write_tokenizer(folder: Path, tokenizer: dict[str, Any]) -> None:
    _write(folder / TOKENIZER_FILE, json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="")  # the same bytes on every system
