"""The real magika model through the executor, with features from examples/magika_features.py."""

from __future__ import annotations

import importlib.util
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from rota.common.model_call import Tensor, decode_result, encode_call
from rota.common.work import MODEL, Code, Done

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "magika_features.py"

PYTHON = b"""import os
import sys

class Walker:
    def __init__(self, root):
        self.root = root

    def files(self):
        for folder, _, names in os.walk(self.root):
            for name in sorted(names):
                yield os.path.join(folder, name)

if __name__ == "__main__":
    for path in Walker(sys.argv[1]).files():
        print(path)
"""
JSON = b'{"name": "rota", "versions": [1, 2, 3], "nested": {"yes": true, "no": null}, "list": [{"a": 1}]}'
HTML = b"<!DOCTYPE html>\n<html><head><title>t</title></head><body><p>Hello <a href='x'>there</a></p></body></html>\n"
C = b"""#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
  printf("%d", argc);
  return 0;
}
"""


@pytest.fixture(scope="module")
def magika() -> Any:
    spec = importlib.util.spec_from_file_location("magika_features", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes([row, 7, 3 * row % 256] * 64) for row in range(64)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_real_contents_get_their_labels(bench: Any, kit: Any, magika: Any, magika_folder: Path) -> None:
    """Goal: features, model, executor and labels fit together. Method: contents of six well-known types."""
    entry = bench.repository.add(magika_folder, "magika")
    labels = magika.Labels.read(entry.folder / "labels.json")
    contents = {"python": PYTHON, "json": JSON, "html": HTML, "c": C, "png": png(), "txt": b"hello"}
    contents["python "] = b"\n \t" + PYTHON + b"  \n" * 2000  # white space at both ends, longer than the blocks
    code = Code(entry.digest, MODEL)
    for wanted, content in contents.items():
        tokens = magika.features(content)
        if tokens is None:
            assert magika.label_of_few(content) == wanted
            continue
        call = encode_call({magika.INPUT: Tensor(magika.INPUT_DTYPE, magika.INPUT_SHAPE, tokens)})
        done = bench.run(code, kit.task(call)).outcomes[0]
        assert isinstance(done, Done), done
        data = decode_result(done.result or b"", ())[magika.OUTPUT].data
        assert isinstance(data, bytes)
        label, score = magika.label_of_scores(labels, struct.unpack("<214f", data))
        assert (label, score > 0.5) == (wanted.strip(), True)


def test_features_follow_the_rules_at_their_edges(magika: Any) -> None:
    """Goal: the rules of docs/MODELS.md at each of their borders. Method: contents that sit just beside them."""

    def tokens(content: bytes) -> tuple[int, ...]:
        return struct.unpack("<2048i", magika.features(content))

    assert magika.features(b"1234567") is None
    assert magika.features(b" " * 9000 + b"long enough, but not in the first block") is None
    assert tokens(b"12345678") == (*b"12345678", *[256] * 1016, *[256] * 1016, *b"12345678")
    assert tokens(b" \t\n\v\f\r12345678 x ")[:10] == tuple(b"12345678 x")
    assert tokens(b"12345678 x \n")[-10:] == tuple(b"12345678 x")
    assert tokens(b"12345678\0")[-1] == 0  # NUL is no white space
    long = bytes(range(97, 113)) * 1024
    assert tokens(long) == (*long[:1024], *long[-1024:])
    assert tokens(long + b" " * 4096)[1024:] == (256,) * 1024
    assert [magika.label_of_few(content) for content in (b"", b"hi", "é".encode(), b"\xff\xfe")] == [
        "empty", "txt", "txt", "unknown",
    ]  # fmt: skip
