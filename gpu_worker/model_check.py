"""Checks the files of a model before it is added, without ONNX Runtime: graph, settings, and the files they name.

What only ONNX Runtime or the tokenizer's library can tell is found when a worker loads the model.
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from rota.common.errors import CodeError
from rota.common.shown import shown
from rota.gpu_worker.graph import Graph, check_graph, read_graph
from rota.gpu_worker.settings import FILE_NAME as SETTINGS_FILE
from rota.gpu_worker.settings import LABELS_MAX, ModelSettings, parse_settings
from rota.host.files import regular_opener

MODEL_FILE: Final = "model.onnx"
TEMPLATE_BYTES_MAX: Final = 1 << 20

T = TypeVar("T")


def check_model(folder: Path, files: Iterable[str], shown_folder: Path) -> None:
    """Check a model's files in `folder`; messages name them in `shown_folder`, which the user knows.

    `files`: the paths of all its files, with `/`. Raises `CodeError` naming the file, what is wrong and the remedy.
    """
    names = dict.fromkeys(files)
    try:
        graph = read_model(folder / MODEL_FILE, read_graph)
        check_graph(graph, names)
        if not graph.outputs:
            raise CodeError("it is no ONNX model: it has no outputs")
    except CodeError as error:
        raise CodeError(f"{MODEL_FILE} cannot be used: {error.message}") from None
    if SETTINGS_FILE in names:
        where = str(shown_folder / SETTINGS_FILE)
        settings = parse_settings(read_text(folder / SETTINGS_FILE), where)
        _check_names(settings, graph, where)
        _check_files(settings, folder, names, where)


def read_model(path: Path, read: Callable[[memoryview], T]) -> T:
    """Return what `read` makes of the bytes of a model's graph.

    Raises `CodeError` for a file that is empty or no model, `OSError` for one that cannot be read.
    """
    with open(path, "rb", opener=regular_opener) as file:
        if not os.fstat(file.fileno()).st_size:
            raise CodeError("it is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
            return read(data)


def read_text(path: Path) -> str:
    """Return the content of a text file. Raises `CodeError` if that cannot be read."""
    try:
        with open(path, encoding="utf-8", opener=regular_opener) as file:
            return file.read()
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CodeError(f"{path} is not UTF-8 text") from None


def _check_names(settings: ModelSettings, graph: Graph, where: str) -> None:
    """Raise `CodeError` if the settings name an input or output that the graph does not have."""
    named = [("[[shapes]]", name, graph.called) for shapes in settings.shapes for name in shapes]
    named += [("[ranges]", name, graph.called) for name in settings.ranges]
    named += [("outputs", name, graph.outputs) for name in settings.outputs]
    for key, name, names in named:
        if name not in names:
            role = "output" if key == "outputs" else "input"
            has = ", ".join(repr(one) for one in names[:20])
            raise CodeError(f"{where}: {key}: the model has no {role} {name!r}; it has {has}")


def _check_files(settings: ModelSettings, folder: Path, names: Iterable[str], where: str) -> None:
    """Raise `CodeError` if a file that the settings name is missing or cannot be what it should be."""
    for key, name in settings.files():
        if name not in names:
            raise CodeError(f"{where}: {key} names {name!r}, which is no file of the model: put it into its folder")
        path = folder / name
        if key.endswith(".tokenizer"):
            table = _read_json(path, name)
            if not isinstance(table, dict) or not isinstance(table.get("model"), dict):
                raise CodeError(f"{name} is no tokenizer of the `tokenizers` library: it has no table `model`")
        elif key.endswith(".labels"):
            labels = _read_json(path, name)
            if not isinstance(labels, list) or not 0 < len(labels) <= LABELS_MAX:
                raise CodeError(f"{name} must hold a JSON list of 1 to {LABELS_MAX} labels, got {shown(labels)}")
            wrong = next((label for label in labels if not isinstance(label, str)), None)
            if wrong is not None:
                raise CodeError(f"{name} must hold labels as texts, got {shown(wrong)}")
        elif path.stat().st_size > TEMPLATE_BYTES_MAX:
            raise CodeError(f"{name} has {path.stat().st_size} bytes; a chat template has at most {TEMPLATE_BYTES_MAX}")
        else:
            read_text(path)


def _read_json(path: Path, name: str) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CodeError(f"{name} is no JSON: {str(error)[:200]}") from None
