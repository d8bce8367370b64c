"""Runs onnxruntime-genai over one of our decoders, in a process of its own: JSON on stdin, JSON on stdout.

It needs two changes of the graph, none of which adds or removes work of a decode: an attention mask of the length so
far instead of the whole context, and logits of all positions. The weights are linked where they can be.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper


def main() -> None:
    request = json.loads(sys.stdin.read())
    sys.path.insert(0, request["genai"])
    genai = import_module("onnxruntime_genai")
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(request["folder"]), Path(folder))
        model = genai.Model(folder)
        _generate(genai, model, [prompt[:4] for prompt in request["prompts"]], 2)  # warm
        seconds, tokens = _generate(genai, model, request["prompts"], request["following"])
    print(json.dumps({"tokens_per_second": tokens / seconds}))


def _generate(genai: Any, model: Any, prompts: list[list[int]], following: int) -> tuple[float, int]:
    parameters = genai.GeneratorParams(model)
    length = len(prompts[0]) + following
    parameters.set_search_options(max_length=length, min_length=length, batch_size=len(prompts), do_sample=False)
    generator = genai.Generator(model, parameters)
    started = time.perf_counter()
    generator.append_tokens(np.array(prompts, np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    return time.perf_counter() - started, len(prompts) * following


def _prepare(source: Path, folder: Path) -> None:
    """Write the changed graph and the settings of onnxruntime-genai."""
    model = onnx.load(source / "model.onnx", load_external_data=False)
    cells = next(value for value in model.graph.input if value.name.startswith("past_key_values"))
    heads, _, size = [extent.dim_value for extent in cells.type.tensor_type.shape.dim[1:]]
    layers = sum(value.name.endswith(".key") for value in model.graph.input)
    attention = next(node for node in model.graph.node if node.op_type == "GroupQueryAttention")
    queries = next(attribute.i for attribute in attention.attribute if attribute.name == "num_heads")
    vocabulary = next(value for value in model.graph.output if value.name == "logits").type.tensor_type.shape.dim[2]
    _change(model)
    onnx.save(model, folder / "model.onnx")
    for path in source.iterdir():
        if path.is_file() and path.name != "model.onnx":
            try:
                os.link(path, folder / path.name)  # ONNX Runtime takes no link that leads out of the folder
            except OSError:
                shutil.copy(path, folder / path.name)
    (folder / "genai_config.json").write_text(
        json.dumps(_settings(layers, queries, heads, size, vocabulary.dim_value)), encoding="utf-8"
    )


def _change(model: Any) -> None:
    graph = model.graph
    for value in (*graph.input, *graph.output):
        extents = value.type.tensor_type.shape.dim
        if value.name == "attention_mask":
            extents[1].dim_param = "total"
        elif value.name == "logits":
            extents[1].dim_param = "length"
        elif len(extents) == 4:
            extents[2].dim_param = "cells"
    kept = [tensor for tensor in graph.initializer if tensor.name != "context"]
    del graph.initializer[:]
    graph.initializer.extend([*kept, helper.make_tensor("mask_axis", TensorProto.INT64, [], [1])])
    nodes = [
        helper.make_node("Shape", ["attention_mask"], ["mask_shape"]),
        helper.make_node("Gather", ["mask_shape", "mask_axis"], ["total_64"], axis=0),
        helper.make_node("Cast", ["total_64"], ["context"], to=TensorProto.INT32),
    ]
    for node in graph.node:
        is_last_two = node.op_type == "Slice" and list(node.output) == ["last"]
        nodes.append(helper.make_node("Identity", [node.input[0]], ["last"]) if is_last_two else node)
    del graph.node[:]
    graph.node.extend(nodes)


def _settings(layers: int, queries: int, heads: int, size: int, vocabulary: int) -> dict[str, Any]:
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    outputs = {"logits": "logits"}
    for part in ("key", "value"):
        inputs[f"past_{part}_names"] = f"past_key_values.%d.{part}"
        outputs[f"present_{part}_names"] = f"present.%d.{part}"
    return {
        "model": {
            "bos_token_id": 1, "eos_token_id": [2], "pad_token_id": 0, "vocab_size": vocabulary, "context_length": 2048,
            "type": "llama",
            "decoder": {
                "session_options": {"intra_op_num_threads": 1, "provider_options": []}, "filename": "model.onnx",
                "head_size": size, "hidden_size": queries * size, "num_attention_heads": queries,
                "num_hidden_layers": layers, "num_key_value_heads": heads, "inputs": inputs, "outputs": outputs,
            },
        },
        "search": {"max_length": 2048, "past_present_share_buffer": True, "do_sample": False},
    }  # fmt: skip


if __name__ == "__main__":
    main()
