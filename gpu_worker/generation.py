"""Loads a decoder for text generation: session, tokenizer, chat template, and slots as its certificate allows.

rota.generation does the work; this file gives it what belongs to this worker. A decoder begins in one slot and without
a prefix cache, which needs no evidence; `apply` gives it what its certificate says. The fingerprint also has the
versions of the libraries between text and tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime

from rota.common.errors import CodeError
from rota.generation import chat_template, constraint, vocabulary
from rota.generation.cells import CellsShape, SlotCells
from rota.generation.chat_template import ChatTemplate
from rota.generation.decoder_interface import DecoderInterface, interface_of
from rota.generation.prefix_cache import PrefixCache
from rota.generation.probes import CONTEXT_MIN, base_probe, probe_decoder
from rota.generation.slot_decoder import SlotDecoder
from rota.generation.text_generator import TextGenerator, TextSetup
from rota.generation.vocabulary import Vocabulary
from rota.gpu_worker.certificate import Certificate, DecoderCertificate, Evidence, unstable
from rota.gpu_worker.fingerprint import probe_digest, session_facts
from rota.gpu_worker.provider_table import Require
from rota.gpu_worker.providers import RUN_ERRORS, OpenSession, check_device, error_text, open_session
from rota.gpu_worker.repository import ModelEntry
from rota.gpu_worker.settings import GenerateSettings, ModelSettings

_ALONE: Final = DecoderCertificate((1,), False)
_ON_CUDA: Final = ("cuda", "tensorrt")  # with other devices, the library copies the cells in each run


class CudaCells(SlotCells):
    """Cells in the memory of a CUDA device. Not measured. They are not copied and not filled."""

    device = "cuda"

    def __init__(self, shape: CellsShape) -> None:
        self.shape = shape
        zeros = np.zeros(shape.slots * shape.slot_bytes, np.uint8)
        self._values = [
            onnxruntime.OrtValue.ortvalue_from_numpy(zeros, "cuda", self.device_number) for _ in range(shape.parts)
        ]

    def address(self, part: int, slot: int) -> int:
        return int(self._values[part].data_ptr()) + slot * self.shape.slot_bytes

    def scribble(self, end: int) -> None:
        """Do nothing, since only runs of a session write here."""


@dataclass(frozen=True, slots=True)
class _DecoderGraph:
    """A decoder's session with what its slots need."""

    opened: OpenSession
    interface: DecoderInterface
    context: int
    vocabulary: int  # logits

    def decoder(self, sizes: Sequence[int]) -> SlotDecoder:
        """Return a decoder with slots of its own; `sizes` as in `SlotDecoder`."""
        shape = self.interface.cells_shape(sizes[-1], self.context)
        cells = CudaCells(shape) if self.opened.provider in _ON_CUDA else SlotCells(shape)
        return SlotDecoder(self.opened.session, self.interface, cells, sizes, self.vocabulary)


class TextModel(TextGenerator):
    """A decoder that is ready to generate: `GeneratingModel` of text_model.py. `facts` is its fingerprint."""

    def __init__(self, entry: ModelEntry, settings: GenerateSettings, graph: _DecoderGraph, setup: TextSetup) -> None:
        super().__init__(graph.decoder((1,)), setup, PrefixCache(0))
        self.entry = entry
        self.opened = graph.opened
        self._graph = graph
        self._settings = settings
        probe = probe_digest(base_probe(graph.decoder((settings.slots,))))
        self.facts: Mapping[str, Any] = {**session_facts(graph.opened, entry.digest, probe), "text": _text_facts()}

    def apply(self, certificate: DecoderCertificate | None) -> None:
        """Generate as a certificate allows. None: in one slot, without a prefix cache. Call it while idle."""
        allowed = certificate or _ALONE
        cache_bytes = (self._settings.prefix_cache_mb << 20) if allowed.prefix_cache else 0
        self.renew(self._graph.decoder(allowed.sizes), PrefixCache(cache_bytes))
        self.prepare()

    def probed(self, say: Callable[[str], None]) -> Certificate:
        """Return the certificate that probes in this process give."""
        finding = probe_decoder(
            self._graph.decoder, self._settings.slots, on_host=self.opened.provider == "cpu", say=say
        )
        probe = str(self.facts["probe"])
        evidence = tuple([Evidence(*count) for count in finding.counts])
        if not finding.is_repeatable:
            return unstable(finding.reason, probe)
        found = DecoderCertificate(finding.sizes, finding.prefix_cache, evidence)
        return Certificate("C" if finding.reason else "A", finding.reason, probe, (), found)

    def description(self) -> dict[str, Any]:
        """Return a description for producers and operators, in MessagePack's types."""
        template = self._setup.template
        return {
            "model": self.entry.name,
            "version": self.entry.version,
            "task": "generate",
            "context": self._settings.context,
            "slots": self._decoder.slots,
            "max_tokens": self._settings.max_tokens,
            "messages": template is not None,
            "provider": self.opened.provider,
            "reason": self.opened.reason,
        }


def load_text_model(entry: ModelEntry, settings: ModelSettings, *, threads: int, require: Require) -> TextModel:
    """Load a decoder, in any thread. Raises `CodeError` naming the file or the part of the graph that does not fit."""
    generate = settings.generate
    assert generate is not None, settings
    title = f"model {entry.name} version {entry.version}"
    if generate.context < CONTEXT_MIN:
        raise CodeError(f"{title}: generate.context must be at least {CONTEXT_MIN}, got {generate.context}")
    setup = _setup(entry, generate)
    opened = open_session(entry.model_path, settings, threads=threads, require=require)
    interface = interface_of(opened.session, generate.context, title)
    try:
        graph = _DecoderGraph(opened, interface, generate.context, _logits_of(opened, interface, generate.context))
        _check_tokens(setup, graph.vocabulary, title)
        return TextModel(entry, generate, graph, setup)
    except RUN_ERRORS as error:
        check_device(error, opened.provider)
        raise CodeError(f"{title} fails in its first run: {error_text(error)}") from error


def _setup(entry: ModelEntry, settings: GenerateSettings) -> TextSetup:
    words = Vocabulary(entry.folder / settings.tokenizer)
    template = None
    if settings.template:
        path = entry.folder / settings.template
        end = words.name_of(settings.stop_tokens[0]) if settings.stop_tokens else ""
        try:
            source = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CodeError(f"{path} cannot be read: {error}") from None
        template = ChatTemplate(source, str(path), bos_token=words.first_added, eos_token=end)
    return TextSetup(words, template, settings.stop_tokens, settings.max_tokens, settings.logprobs_max)


def _logits_of(opened: OpenSession, interface: DecoderInterface, context: int) -> int:
    """Return how many logits the graph gives for a token: as it declares, or else as it does."""
    declared = {node.name: node.shape for node in opened.session.get_outputs()}["logits"][2]
    if isinstance(declared, int) and declared > 0:
        return declared
    return len(_DecoderGraph(opened, interface, context, 1).decoder((1,)).prefill(0, 0, (0, 0)))


def _check_tokens(setup: TextSetup, logits: int, title: str) -> None:
    last = max([*setup.vocabulary.ids, *setup.stop_tokens])
    if last >= logits:
        what = "generate.stop_tokens" if last in setup.stop_tokens else setup.vocabulary.path.name
        raise CodeError(
            f"{title}: {what} has the token {last}, but the model's logits are for tokens 0 to {logits - 1}: "
            "tokenizer and model do not belong together"
        )


def _text_facts() -> dict[str, str]:
    return {**vocabulary.facts(), **chat_template.facts(), **constraint.facts(), "numpy": np.__version__}
