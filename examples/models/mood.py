"""A model folder written by hand, for `rota classify`: is a text sad or happy? Usage: mood.py FOLDER

The model adds up what each known word speaks for. Needs onnx (`pip install '.[all,models]'`). From FOLDER on:

    rota model add mood FOLDER
    rota classify mood "what a lovely, happy day" "the film was bad"
"""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SETTINGS = """task = "classify"
[text]
tokenizer = "tokenizer.json"
labels = ["sad", "happy"]
buckets = [16, 64]
"""
SAD, HAPPY = "sad bad awful boring cry", "happy good lovely great laugh"


def main(folder: Path) -> None:
    """Write graph, tokenizer and settings into a new folder."""
    words = ["[PAD]", "[UNK]", *SAD.split(), *HAPPY.split()]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    scores = np.array([[word in SAD.split(), word in HAPPY.split()] for word in words], np.float32)
    nodes = [
        helper.make_node("Gather", ["scores", "input_ids"], ["by_word"]),  # [rows, length, 2]; [PAD] has zeros
        helper.make_node("ReduceSum", ["by_word", "axis"], ["sums"], keepdims=0),  # [rows, 2]
    ]
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["rows", "length"])]
    outputs = [helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["rows", 2])]
    constants = [numpy_helper.from_array(scores, "scores"), numpy_helper.from_array(np.array([1]), "axis")]
    graph = helper.make_graph(nodes, "mood", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.toml").write_text(SETTINGS, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
