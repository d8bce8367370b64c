"""Tokenizers: the bytes of tokens are those of the library's own decoder; others are refused with the reason."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models

from rota.common.errors import CodeError
from rota.generation.vocabulary import Vocabulary
from rota.model_builds.byte_tokenizer import tokenizer_json


def saved(definition: dict, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    return path


def sentencepiece(folder: Path) -> Path:
    """Save a tokenizer like Llama 2's: pieces with a marked space, and single bytes for what has no piece."""
    pieces = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)], "\u2581", "\u2581the", "é"]
    made = tokenizers.Tokenizer(
        models.BPE({piece: at for at, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    made.add_special_tokens(["<s>", "</s>"])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    path = folder / "tokenizer.json"
    made.save(str(path))
    return path


@pytest.mark.parametrize("kind", ["byte level", "SentencePiece"])
def test_the_bytes_of_tokens_are_the_text_of_the_library(kind: str, tmp_path: Path) -> None:
    """Goal: our text is the tokenizer's. Method: random tokens against the library's decoder."""
    path = saved(tokenizer_json(), tmp_path) if kind == "byte level" else sentencepiece(tmp_path)
    vocabulary, library = Vocabulary(path), tokenizers.Tokenizer.from_file(str(path))
    chance = random.Random(8)
    for _ in range(300):
        ids = chance.choices(vocabulary.ids, k=chance.randrange(1, 12))
        ours = b"".join(vocabulary.bytes_of(token) for token in ids)
        text = ours.decode(errors="replace")
        if vocabulary.strip_start:
            if "\ufffd" in text:
                continue  # the library shows one mark for each byte there
            text = text.removeprefix(" ")
        assert text == library.decode(ids, skip_special_tokens=True)


def test_texts_come_back(tmp_path: Path) -> None:
    """Goal: text to tokens and back. Method: some texts, special tokens in them included."""
    vocabulary = Vocabulary(saved(tokenizer_json(), tmp_path))
    for text in ("the user is", "é€😀", "", "\x00\x7f"):
        ids = vocabulary.tokens_of(text, add_special=True)
        assert b"".join(vocabulary.bytes_of(token) for token in ids).decode() == text
    special = vocabulary.name_of(2)
    assert vocabulary.tokens_of(special, add_special=False) == [2]
    assert vocabulary.bytes_of(2) == b""
    assert vocabulary.bytes_of(10_000) == b""


def test_a_token_in_front_of_every_text_is_known(tmp_path: Path) -> None:
    """Goal: `bos_token` of a template. Method: a tokenizer that adds one, and one that does not."""
    assert Vocabulary(saved(tokenizer_json(), tmp_path)).first_added == ""
    path = tmp_path / "tokenizer.json"
    made = tokenizers.Tokenizer.from_file(str(path))
    first = made.id_to_token(1)
    made.post_processor = tokenizers.processors.TemplateProcessing(f"{first} $0", special_tokens=[(first, 1)])
    made.save(str(path))
    assert Vocabulary(path).first_added == first


def test_length_settings_of_the_file_do_not_count(tmp_path: Path) -> None:
    """Goal: no prompt is cut or padded in silence. Method: a file that says both."""
    definition = tokenizer_json()
    definition["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    vocabulary = Vocabulary(saved(definition, tmp_path))
    assert len(vocabulary.tokens_of("zzzzzzzzzz", add_special=True)) == 10


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    """Goal: a clear error. Method: no file, no tokenizer, one whose tokens have no bytes."""
    with pytest.raises(CodeError, match=r"nowhere\.json is no tokenizer"):
        Vocabulary(tmp_path / "nowhere.json")
    broken = tmp_path / "broken.json"
    broken.write_text("{}", encoding="utf-8")
    with pytest.raises(CodeError, match=r"broken\.json is no tokenizer"):
        Vocabulary(broken)
    definition = tokenizer_json()
    definition["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    with pytest.raises(CodeError, match="its decoder WordPiece does not say which bytes"):
        Vocabulary(saved(definition, tmp_path))
    definition["decoder"] = None
    with pytest.raises(CodeError, match="its decoder null"):
        Vocabulary(saved(definition, tmp_path))
