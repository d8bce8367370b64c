"""A tiny encoder from a seed: model folder with graph, tokenizer and settings, built in milliseconds.

The graph has attention with a mask, so it is wrong where padding is not masked, and a table of positions. With labels
it gives scores from the first token; else the vectors of the tokens.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

_TEXT = "the cat sat on a mat and dog ran away ##s ##ing very good bad film was is not"
WORDS = _TEXT.split()
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
HIDDEN = 8
POSITIONS = 64


def tokenizer() -> Tokenizer:
    """A lower-casing WordPiece tokenizer that puts [CLS] and [SEP] around a text."""
    vocabulary = {word: at for at, word in enumerate((*SPECIAL, *WORDS))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def build_tiny_encoder(
    folder: Path, *, task: str = "embed", labels: Sequence[str] = (), seed: int = 0, types: bool = False, **text: Any
) -> Path:
    """Write a model folder and return it. `text` are settings of the table [text]; `types`: an input more."""
    folder.mkdir(parents=True)
    onnx.save(_graph(len(labels), seed, types), folder / "model.onnx")
    tokenizer().save(str(folder / "tokenizer.json"))
    settings = {"tokenizer": "tokenizer.json", "buckets": [8, 16, 32], **text}
    if labels:
        (folder / "labels.json").write_text(json.dumps(list(labels)))
        settings.setdefault("labels", "labels.json")
    lines = [f"task = {json.dumps(task)}", "[text]", *[f"{key} = {json.dumps(one)}" for key, one in settings.items()]]
    (folder / "model.toml").write_text("\n".join(lines) + "\n")
    return folder


def _graph(labels: int, seed: int, types: bool) -> onnx.ModelProto:
    random = np.random.default_rng(seed)
    weights = {
        "words": random.standard_normal((len(SPECIAL) + len(WORDS), HIDDEN), np.float32),
        "places": random.standard_normal((1, POSITIONS, HIDDEN), np.float32),
        "mixing": random.standard_normal((HIDDEN, HIDDEN), np.float32),
        "head": random.standard_normal((HIDDEN, max(1, labels)), np.float32),
        "first": np.array(0, np.int64),
        "zero": np.array([0], np.int64),
        "axis": np.array([1], np.int64),
        "one": np.array(1, np.float32),
        "much": np.array(10_000, np.float32),
    }
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["length"], start=1, end=2),
        helper.make_node("Slice", ["places", "zero", "length", "axis"], ["places_used"]),
        helper.make_node("Gather", ["words", "input_ids"], ["words_used"], axis=0),
        helper.make_node("Add", ["words_used", "places_used"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "mixing"], ["queries"]),
        helper.make_node("Transpose", ["embedded"], ["keys"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["queries", "keys"], ["products"]),
        helper.make_node("Unsqueeze", ["attention_mask", "axis"], ["mask"]),
        helper.make_node("Cast", ["mask"], ["mask_float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "mask_float"], ["padding"]),
        helper.make_node("Mul", ["padding", "much"], ["far"]),
        helper.make_node("Sub", ["products", "far"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
        helper.make_node("MatMul", ["shares", "embedded"], ["mixed"]),
    ]
    names = ["input_ids", "attention_mask"]
    if types:
        names.append("token_type_ids")
        nodes += [
            helper.make_node("Unsqueeze", ["token_type_ids", "last"], ["types"]),
            helper.make_node("Cast", ["types"], ["types_float"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["mixed", "types_float"], ["typed"]),
        ]
        weights["last"] = np.array([2], np.int64)
    hidden = "typed" if types else "mixed"
    if labels:
        nodes += [
            helper.make_node("Gather", [hidden, "first"], ["first_token"], axis=1),
            helper.make_node("MatMul", ["first_token", "head"], ["logits"]),
        ]
        output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", labels])
    else:
        nodes.append(helper.make_node("Identity", [hidden], ["last_hidden_state"]))
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["rows", "length", HIDDEN])
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["rows", "length"]) for name in names]
    graph = helper.make_graph(
        nodes, "tiny", inputs, [output], [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
