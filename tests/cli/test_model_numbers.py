"""How people see loaded models, and where results were computed."""

from __future__ import annotations

from typing import Any

import pytest

from rota.cli.model_numbers import print_models, provenance_text, tell_provenances
from rota.cli.models import _folded
from rota.common.messages import ModelNumbers
from rota.common.work import Provenance

CUDA = Provenance("bitwise", "cuda", bytes(32), "A")
FALLEN = Provenance("recorded", "cpu", bytes(32), "D", "no driver")


def test_a_result_says_where_it_was_computed(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: provider, certificate, class and the reason of a fallback are read without JSON. Method: both kinds; many
    results are one line.
    """
    assert provenance_text(CUDA) == "on cuda, certificate A, bitwise"
    assert provenance_text(FALLEN) == "on cpu (no driver), certificate D, recorded"
    tell_provenances([CUDA, FALLEN, CUDA])
    assert capsys.readouterr().err.splitlines() == [
        "computed on cuda, certificate A, bitwise (2 results)",
        "computed on cpu (no driver), certificate D, recorded",
    ]


def test_loaded_models_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: an operator sees how full batches are and why a model is not on the GPU. Method: two models, one worker."""
    numbers = [
        ModelNumbers("model:m@2", bytes(32), "cuda", "", "A", 3 << 20, 4, 30, 0, 0, 0),
        ModelNumbers("model:chat", bytes(32), "cpu", "out of memory", "A", 512 << 20, 9, 9, 100, 40, 25),
    ]
    workers: list[dict[str, Any]] = [
        {"worker": "g1", "models": [one._asdict() for one in numbers]}, {"worker": "c1", "models": []},
    ]  # fmt: skip
    print_models(workers)
    told = capsys.readouterr().out
    assert "3.0 MiB" in told
    assert "7.5" in told, "rows per call"
    assert "model:chat runs on the CPU of g1: out of memory" in told
    assert "model:m@2 runs on" not in told
    print_models([workers[1]])
    assert capsys.readouterr().out == ""


def test_ports_that_differ_in_a_number_are_one_line() -> None:
    """Goal: the ports of 30 layers do not hide the others. Method: two kinds by layer, two ports beside them."""
    rows: list[dict[str, Any]] = [{"name": "ids", "dtype": "int64", "shape": (1, None)}]
    for layer in range(5):
        rows += [{"name": f"past.{layer}.{what}", "dtype": "float32", "shape": (1, 4)} for what in ("key", "value")]
    rows += [{"name": f"x{number}", "dtype": "float32", "shape": (1,)} for number in range(3)]
    assert [row["input"] for row in _folded(rows, "input")] == [
        "ids", "past.N.key (5, past.0.key first)", "past.N.value (5, past.0.value first)", "x0", "x1", "x2",
    ]  # fmt: skip
