"""Decoders with random weights against the numpy pass, and their files."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import forward_pass
import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

from rota.model_builds.byte_tokenizer import START_TOKEN, STOP_TOKEN, VOCABULARY
from rota.model_builds.decoder import DecoderShape
from rota.model_builds.random_decoder import TINY, RandomWeights, build_random_decoder
from rota.model_builds.weights import Blocks, packed

TEXT = "<|im_start|>user\nSay the word true, 12 times: é 漢 🙂<|im_end|>\n"


class Cells:
    """A session over a decoder and the cells of its rows, which go from call to call."""

    def __init__(self, folder: Path, shape: DecoderShape, rows: int = 1, element: Any = np.float32) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self.context = shape.context
        extents = (rows, shape.kv_heads, shape.context, shape.head_size)
        # Cells that were never written hold garbage, and it must not matter.
        self.cells = {one.name: np.full(extents, 7, element) for one in self.session.get_inputs()[2:]}
        self.lengths = np.zeros(rows, np.int64)

    def run(self, tokens: Any) -> np.ndarray:
        tokens = np.asarray(tokens, np.int64)
        self.lengths += tokens.shape[1]
        mask = (np.arange(self.context) < self.lengths[:, None]).astype(np.int64)
        scores, *cells = self.session.run(None, {"input_ids": tokens, "attention_mask": mask, **self.cells})
        self.cells = dict(zip(self.cells, cells, strict=True))
        return np.asarray(scores)


def tokens_of(folder: Path, text: str) -> list[int]:
    found: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return found


@pytest.mark.parametrize("quantised", [False, True])
def test_a_decoder_computes_what_the_formulas_say(tmp_path: Path, quantised: bool) -> None:
    """Goal: graph, rotation, cache and 4-bit blocks are right. Method: prefill and 20 steps against numpy."""
    folder = build_random_decoder(tmp_path, quantised=quantised)
    tokens = tokens_of(folder, TEXT)
    cells = Cells(folder, TINY)
    scores = cells.run([tokens])
    assert scores.shape == (1, 2, VOCABULARY)
    found = [*scores[0]]
    for step in range(20):
        tokens.append((7 * step) % VOCABULARY)
        (one,) = cells.run([tokens[-1:]])
        found.append(one[0])
    wanted = forward_pass.logits(TINY, RandomWeights(TINY, 0, quantised=quantised), tokens)[-22:]
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.ptp(wanted.argmax(-1)) > 0


def test_a_prompt_in_two_calls_is_the_prompt(tmp_path: Path) -> None:
    """Goal: a later call of several tokens continues the row. Method: one call against two of at least two tokens."""
    folder = build_random_decoder(tmp_path)
    tokens = tokens_of(folder, TEXT)
    whole = Cells(folder, TINY).run([tokens])
    cells = Cells(folder, TINY)
    cells.run([tokens[:9]])
    assert cells.run([tokens[9:]]).tobytes() == whole.tobytes()


def test_rows_of_other_lengths_share_a_call(tmp_path: Path) -> None:
    """Goal: a row in a call of many is the row alone. Method: two prompts of other lengths decoded together."""
    folder = build_random_decoder(tmp_path)
    prompts = [tokens_of(folder, TEXT), tokens_of(folder, "hello there")]
    alone = [Cells(folder, TINY) for _ in prompts]
    for cells, prompt in zip(alone, prompts, strict=True):
        cells.run([prompt])
    both = Cells(folder, TINY, rows=2)
    both.cells = {name: np.concatenate([one.cells[name] for one in alone]) for name in both.cells}
    both.lengths = np.concatenate([one.lengths for one in alone])
    together = both.run([[5], [260]])
    for row, cells in enumerate(alone):
        np.testing.assert_allclose(together[row], cells.run([[5], [260]][row : row + 1])[0], atol=1e-4)


def test_an_unused_row_without_cells_does_no_harm(tmp_path: Path) -> None:
    """Goal: a slot that holds no request may have an all-zero mask. Method: such a row beside a used one."""
    folder = build_random_decoder(tmp_path)
    cells = Cells(folder, TINY, rows=2)
    mask = np.zeros((2, TINY.context), np.int64)
    mask[0, :1] = 1
    inputs = {"input_ids": np.array([[5], [0]]), "attention_mask": mask, **cells.cells}
    assert np.isfinite(cells.session.run(["logits"], inputs)[0]).all()


@pytest.mark.parametrize(
    ("element", "numpy_element"), [("float16", np.float16), pytest.param("bfloat16", None, id="bfloat16")]
)
def test_half_precision(tmp_path: Path, element: str, numpy_element: Any) -> None:
    """Goal: the decoders for a GPU are valid and, where the CPU has the kernels, right. Method: float16 on the CPU."""
    shape = dataclasses.replace(TINY, element=element)
    folder = build_random_decoder(tmp_path, shape)
    if numpy_element is None:
        import onnx

        model = onnx.load(folder / "model.onnx")
        kinds = {one.data_type for one in model.graph.initializer if one.data_type not in (6, 7)}
        assert kinds == {onnx.TensorProto.BFLOAT16}
        return
    tokens = tokens_of(folder, TEXT)
    found = Cells(folder, shape, element=numpy_element).run([tokens])[0]
    wanted = forward_pass.logits(shape, RandomWeights(shape, 0, quantised=False), tokens)[-2:]
    np.testing.assert_allclose(found, wanted, atol=0.5)


def test_a_seed_names_one_model(tmp_path: Path) -> None:
    """Goal: a seed gives the same files everywhere. Method: two builds and another seed."""
    digests = []
    for number, seed in enumerate((5, 5, 6)):
        folder = build_random_decoder(tmp_path / str(number), seed=seed, quantised=True)
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()})
    assert digests[0] == digests[1]
    assert digests[0]["weights.bin"] != digests[2]["weights.bin"]


def test_the_tokenizer_gives_back_every_text(tmp_path: Path) -> None:
    """Goal: each byte is a token, and special tokens are recognised. Method: there and back."""
    folder = build_random_decoder(tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "".join(chr(number) for number in range(32, 600)) + "漢字 🙂\n\tuser the and"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    tokens = tokens_of(folder, TEXT)
    assert tokens[0] == START_TOKEN
    assert STOP_TOKEN in tokens
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert len(tokenizer.encode("user true").ids) < len("user true")


def test_blocks_keep_what_they_can_hold() -> None:
    """Goal: 4-bit blocks are exact where a matrix has 16 values per block. Method: there and back, and packing."""
    random = np.random.default_rng(1)
    nibbles = random.integers(0, 16, (4, 3, 32)).astype(np.uint8)
    nibbles[..., 0], nibbles[..., 1] = 0, 15
    blocks = Blocks(nibbles, np.full((4, 3), 0.25, np.float32), np.full((4, 3), -1.5, np.float32))
    again = Blocks.of_floats(blocks.to_floats())
    assert (again.nibbles == nibbles).all()
    assert (again.to_floats() == blocks.to_floats()).all()
    assert Blocks.of_floats(np.zeros((1, 32), np.float32)).to_floats().tolist() == [[0.0] * 32]
    bytes_of = packed(nibbles)
    assert bytes_of.shape == (4, 3, 16)
    assert (bytes_of[..., 0] == (nibbles[..., 0] | nibbles[..., 1] << 4)).all()


@pytest.mark.processes
def test_the_script_builds_what_it_is_told(tmp_path: Path) -> None:
    """Goal: scripts/models/random_decoder.py makes a whole model of the wanted size. Method: run it, and a bad call."""
    script = Path(__file__).resolve().parents[2] / "scripts" / "models" / "random_decoder.py"
    sizes = [
        "--vocabulary",
        "400",
        "--hidden",
        "96",
        "--layers",
        "1",
        "--heads",
        "3",
        "--kv-heads",
        "1",
        "--inner",
        "64",
    ]
    command = [sys.executable, str(script), str(tmp_path / "m"), *sizes, "--context", "32", "--element", "float16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert " MB in " in done.stdout
    shape = DecoderShape(400, 96, 1, 3, 1, 32, 64, 32, element="float16")
    scores = Cells(tmp_path / "m", shape, element=np.float16).run([[1, 2, 3]])
    assert scores.shape == (1, 2, 400)
    done = subprocess.run([*command, "--heads", "5"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--hidden must be" in done.stderr
