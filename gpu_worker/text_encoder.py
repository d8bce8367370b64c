"""Models that take texts and give vectors or labels: tokenizer, buckets, pooling, activation. Implements
`EncodingModel` of text_model.py.

One text is one row. It is padded to the smallest bucket of model.toml that holds its tokens, which is a property of the
text; whether its row then shares a batch is decided like for any other call, by the certificate. pooling.py makes the
vector or the scores of each text from its own row alone.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from rota.common.errors import BadPayload, CodeError
from rota.common.model_call import Call, Tensor
from rota.common.shown import shown
from rota.common.text_calls import CLASSIFY, ClassifyCall, EmbedCall, decode_text_call
from rota.common.text_results import ClassifyResult, EmbedResult, Usage, encode_text_result
from rota.common.work import TensorRef
from rota.gpu_worker.model_io import Port
from rota.gpu_worker.pooling import ACTIVATIONS, Floats, best, mean_of_tokens, normalised
from rota.gpu_worker.settings import FILE_NAME, LABELS_MAX, ModelSettings, TextSettings
from rota.tensors.arrays import Array
from rota.tensors.format import inline_bytes_max
from rota.tensors.store import TensorStore

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # before the import: the worker's threads are counted

import tokenizers

IDS: Final = "input_ids"
MASK: Final = "attention_mask"
TYPES: Final = "token_type_ids"

_WHOLE: Final = ("int64", "int32")
_FLOATS: Final = ("float32", "float16", "bfloat16", "float64")
_VOCABULARY_FILE_BYTES_MAX: Final = 256 << 20
CHARS_PER_TOKEN: Final = 64  # more than words have; longer texts are not read, since that would hold up all others
_PADDING_TOKENS: Final = ("[PAD]", "<pad>")


class TextEncoder:
    """The tokenizer, labels and settings of one loaded model. Use it in one thread at a time."""

    def __init__(
        self,
        folder: Path,
        settings: ModelSettings,
        inputs: Mapping[str, Port],
        outputs: Mapping[str, Port],
        tensors: TensorStore | None,
    ) -> None:
        """`inputs` and `outputs` are those of the session; `tensors` takes vectors that are too large to be inline.

        Raises `CodeError` if tokenizer, labels or graph do not fit together.
        """
        assert settings.text is not None
        self._task = settings.task
        self._text = settings.text
        self._tensors = tensors
        self._where = folder / FILE_NAME
        self._tokenizer = _Tokenizer(folder / self._text.tokenizer, self._text.length_max)
        self._inputs = self._checked_inputs(inputs)
        self._labels = _labels_of(folder, self._text) if self._task == CLASSIFY else ()
        self._output = self._checked_output(settings.outputs, outputs)

    def rows(self, payload: bytes) -> TextRows:
        """Decode and tokenize a call.

        Raises `BadPayload` for what is no call of this model's task, or has a text that is too long or has no tokens.
        """
        call = decode_text_call(payload, self._task)
        assert isinstance(call, EmbedCall | ClassifyCall)
        tokens = [self._tokens(at, text, call) for at, text in enumerate(call.texts)]
        calls = [self._call(ids) for ids in tokens]
        return TextRows(calls, [len(ids) for ids in tokens], self, None if isinstance(call, EmbedCall) else call.top)

    def packed(
        self, outputs: Sequence[Mapping[str, Array]], counts: Sequence[int], top: int | None
    ) -> tuple[bytes, tuple[TensorRef, ...]]:
        """Return the payload of a result. `counts` are the tokens of each text."""
        rows = [self._row(one[self._output], count) for one, count in zip(outputs, counts, strict=True)]
        usage = Usage(sum(counts))
        if self._task == CLASSIFY:
            labels = tuple([best(self._scores(row), self._labels, top) for row in rows])
            return encode_text_result(ClassifyResult(labels, usage)), ()
        vectors = np.stack([normalised(row) if self._text.normalize else row for row in rows]).astype(np.float32)
        references: tuple[TensorRef, ...] = ()
        data: bytes | int = 0
        if self._tensors is None or vectors.nbytes <= inline_bytes_max([vectors.nbytes]):
            data = vectors.tobytes()
        else:
            references = (self._tensors.put(vectors),)
        return encode_text_result(EmbedResult(Tensor("float32", vectors.shape, data), usage)), references

    # --- before the run -----------------------------------------------------------------------------------------------

    def _tokens(self, at: int, text: str, call: EmbedCall | ClassifyCall) -> list[int]:
        chars_max = CHARS_PER_TOKEN * self._text.length_max
        if len(text) > chars_max:
            if not call.truncate:
                raise BadPayload(
                    f'"{self._task}.texts[{at}]" has {len(text)} characters, and this model takes at most '
                    f"{self._text.length_max} tokens, for which {chars_max} are read: send a shorter one, or set "
                    "truncate"
                )
            text = text[:chars_max]
        ids = self._tokenizer.ids_of(text, cut=False)
        if len(ids) > self._text.length_max:
            if not call.truncate:
                raise BadPayload(
                    f'"{self._task}.texts[{at}]" has {len(ids)} tokens, and this model takes at most '
                    f"{self._text.length_max}: send a shorter one, or set truncate"
                )
            ids = self._tokenizer.ids_of(text, cut=True)
        if not ids:
            raise BadPayload(f'"{self._task}.texts[{at}]" has no tokens: {shown(text)}')
        return ids

    def _call(self, ids: Sequence[int]) -> Call:
        size = next(bucket for bucket in self._text.buckets if bucket >= len(ids))
        filler = size - len(ids)
        values = {
            IDS: [*ids, *[self._tokenizer.padding] * filler],
            MASK: [1] * len(ids) + [0] * filler,
            TYPES: [0] * size,
        }
        tensors = {
            name: Tensor(dtype, (1, size), np.array(values[name], dtype).tobytes())
            for name, dtype in self._inputs.items()
        }
        return Call(tensors, (self._output,))

    # --- after the run ------------------------------------------------------------------------------------------------

    def _row(self, output: Array, count: int) -> Floats:
        """Return the vector or the scores of one text, float64 [d], from the model's output for its row."""
        wanted = 2 if self._text.pooling == "none" else 3
        if output.ndim != wanted or output.shape[0] != 1 or 0 in output.shape:
            raise BadPayload(
                f'output "{self._output}" of the model has the shape {list(output.shape)}; with '
                f"pooling = {self._text.pooling!r} it must be {_shape_text(self._text.pooling)}"
            )
        if self._text.pooling == "mean":
            return mean_of_tokens(output[0], count)
        vector: Floats = (output[0, 0] if self._text.pooling == "cls" else output[0]).astype(np.float64)
        return vector

    def _scores(self, row: Floats) -> Floats:
        if len(row) != len(self._labels):
            raise BadPayload(self._other_count(len(row)))
        if not np.isfinite(row).all():
            raise BadPayload(f'output "{self._output}" of the model holds scores that are no numbers')
        return ACTIVATIONS[self._text.activation](row)

    # --- when it is loaded --------------------------------------------------------------------------------------------

    def _checked_inputs(self, inputs: Mapping[str, Port]) -> dict[str, str]:
        """Return the dtype of each input of the graph. Raises `CodeError` for inputs that are not made from tokens."""
        if IDS not in inputs:
            raise CodeError(
                f'{self._where}: a model with task = "{self._task}" needs an input {IDS}; this one has '
                f"{', '.join(inputs) or 'none'}"
            )
        for name, port in inputs.items():
            if name not in (IDS, MASK, TYPES) or port.dtype not in _WHOLE or len(port.extents) != 2:
                raise CodeError(
                    f'{self._where}: a model with task = "{self._task}" has the inputs {IDS}, {MASK} and {TYPES} or '
                    f'some of them, {" or ".join(_WHOLE)} [rows, length]; this one has "{name}", {port.dtype} '
                    f"{port.shape_text()}"
                )
        return {name: port.dtype for name, port in inputs.items()}

    def _checked_output(self, wanted: Sequence[str], outputs: Mapping[str, Port]) -> str:
        """Return the output to read: the one that model.toml names, else the first of the graph."""
        if len(wanted) > 1:
            raise CodeError(f'{self._where}: outputs must name one output for task = "{self._task}", got {len(wanted)}')
        name = wanted[0] if wanted else next(iter(outputs))
        port = outputs[name]
        rank = 2 if self._text.pooling == "none" else 3
        if port.dtype not in _FLOATS or (port.extents and len(port.extents) != rank):
            raise CodeError(
                f'{self._where}: with pooling = "{self._text.pooling}" the output must be floats '
                f'{_shape_text(self._text.pooling)}, but "{name}" is {port.dtype} {port.shape_text()}: name another '
                "one with outputs, or set pooling"
            )
        last = port.extents[-1] if port.extents else None
        if self._task == CLASSIFY and isinstance(last, int) and last != len(self._labels):
            raise CodeError(f"{self._where}: {self._other_count(last, name)}")
        return name

    def _other_count(self, scores: int, output: str = "") -> str:
        return (
            f'output "{output or self._output}" of the model has {scores} scores for each text, but text.labels names '
            f"{len(self._labels)}"
        )


def text_libraries() -> dict[str, str]:
    """Return the versions of the libraries between text and rows, and between rows and results, for the fingerprint."""
    return {"tokenizers": tokenizers.__version__, "numpy": np.__version__}


class TextRows(NamedTuple):
    """The texts of one call as rows for the model: `EncodedTexts`."""

    calls: Sequence[Call]
    counts: Sequence[int]
    encoder: TextEncoder
    top: int | None

    def packed(self, outputs: Sequence[Mapping[str, Any]]) -> tuple[bytes, tuple[TensorRef, ...]]:
        """Return the payload of the result and its tensor references, from the outputs of each call.

        Raises `BadPayload` if the model's outputs are not what its settings say, `TensorError` without room for them.
        """
        return self.encoder.packed(outputs, self.counts, self.top)


class _Tokenizer:
    """A `tokenizer.json`: once without a limit, once cutting texts at a length."""

    def __init__(self, path: Path, length_max: int) -> None:
        self._whole = _read_tokenizer(path)
        self._cut = _read_tokenizer(path)
        given = self._whole.padding or {}
        known = [self._whole.token_to_id(token) for token in _PADDING_TOKENS]
        self.padding: int = given.get("pad_id", next((number for number in known if number is not None), 0))
        self._whole.no_padding()
        self._whole.no_truncation()
        self._cut.no_padding()
        try:
            self._cut.enable_truncation(length_max)
        except Exception as error:  # the library raises plain Exception
            raise CodeError(f"{path} cannot cut texts to text.length_max = {length_max} tokens: {error}") from None

    def ids_of(self, text: str, *, cut: bool) -> list[int]:
        ids: list[int] = (self._cut if cut else self._whole).encode(text).ids
        return ids


def _read_tokenizer(path: Path) -> Any:
    try:
        if path.stat().st_size > _VOCABULARY_FILE_BYTES_MAX:
            raise CodeError(f"{path} has over {_VOCABULARY_FILE_BYTES_MAX} bytes; no tokenizer is so large")
        return tokenizers.Tokenizer.from_file(str(path))
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}; model.toml names it as text.tokenizer") from None
    except CodeError:
        raise
    except Exception as error:  # the library raises plain Exception
        raise CodeError(f"{path} is no tokenizer.json that can be read: {str(error)[:300]}") from None


def _labels_of(folder: Path, text: TextSettings) -> tuple[str, ...]:
    """Return the names of the labels: those in model.toml, or in the JSON file that it names."""
    if not isinstance(text.labels, str):
        return text.labels
    path = folder / text.labels
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CodeError(f"{path} cannot be read: {error.strerror}; model.toml names it as text.labels") from None
    except (ValueError, RecursionError) as error:
        raise CodeError(f"{path} is not JSON: {str(error)[:200]}") from None
    if not isinstance(labels, list) or not 0 < len(labels) <= LABELS_MAX or not all(map(_is_label, labels)):
        raise CodeError(f"{path} must be a JSON list of 1 to {LABELS_MAX} names, got {shown(labels)}")
    return tuple(labels)


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


def _shape_text(pooling: str) -> str:
    return "[rows, values]" if pooling == "none" else "[rows, length, values]"
