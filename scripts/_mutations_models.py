"""Faults in what is done for models: assignments of one worker, streams of text, results that may differ, generation.
For _mutations.py: the fields of its `Mutation`.
"""

from __future__ import annotations

from typing import Final

_DISPATCH: Final = ("tests/broker/test_dispatch.py",)
_RESULTS: Final = ("tests/broker/test_model_results.py",)
_PROOF: Final = ("tests/proof/test_divergence_models.py",)
_STREAMS: Final = ("tests/broker/test_streams.py",)
_TEXTS: Final = ("tests/client/test_texts.py",)
_BITS: Final = ("tests/generation/test_bits.py",)
_PROBES: Final = ("tests/gpu_worker/test_probes.py",)
_CERTIFICATES: Final = ("tests/gpu_worker/test_certificate.py", "tests/gpu_worker/test_certification.py")

MODEL_FAULTS: Final = (
    (
        "assignments-without-end",
        "a worker holds as many assignments as it said",
        "broker/dispatch.py",
        "and len(self.held) < self.settings.assignments_max\n",
        "and len(self.held) < 64\n",
        _DISPATCH,
    ),
    (
        "first-call-with-others",
        "a model call of unknown pace travels alone",
        "broker/dispatch.py",
        '{"cpu": 4, "gpu": 1}',
        '{"cpu": 4, "gpu": 4}',
        _DISPATCH,
    ),
    (
        "text-of-foreign-work",
        "a worker streams only for assignments that it holds",
        "broker/workers.py",
        "assignment = worker.held.get(number)",
        "assignment = broker.dispatcher.assignments.get(number)",
        _STREAMS,
    ),
    (
        "text-goes-on-after-a-death",
        "a piece of text replaces everything from its offset on",
        "broker/streams.py",
        "            kept.cut(offset)\n",
        "            kept.cut(kept.chars)\n",
        _STREAMS,
    ),
    (
        "text-for-everybody",
        "a text is published only while somebody follows its task",
        "broker/streams.py",
        " if task.seq in self._followed else None",
        "",
        _STREAMS,
    ),
    (
        "text-without-end",
        "the text of a task that has its outcome is forgotten",
        "broker/state.py",
        "        self.streams.end(notes.finished)\n",
        "",
        _STREAMS,
    ),
    (
        "text-shown-twice",
        "a client shows what a repeated piece has once",
        "client/texts.py",
        "what.text[followed.end - what.offset :]",
        "what.text",
        _TEXTS,
    ),
    (
        "lost-text-not-asked-for",
        "a client asks again for text that was lost",
        "client/texts.py",
        "            self._ask_again(what.seq, followed)\n",
        "            followed.asked = True\n",
        _TEXTS,
    ),
    (
        "two-halves-of-two-texts",
        "what a client shows of an answer is the start of its result",
        "client/texts.py",
        "if not text.startswith(shown):",
        "if len(text) < len(shown):",
        _TEXTS,
    ),
    (
        "cells-of-decodes-kept",
        "the prefix cache has only cells that a prefill wrote",
        "generation/text_generator.py",
        "        self.drop(request.number)\n        pieces",
        "        self._cache.add(\n"
        "            [*request.prompt, *request.tokens][: request.cells],\n"
        "            lambda start, end: self._decoder.cells.copy(request.slot, start, end),\n"
        "        )\n"
        "        self.drop(request.number)\n        pieces",
        _BITS,
    ),
    (
        "all-of-a-prompt-cached",
        "a prefill reads at least the last two tokens of a prompt",
        "generation/text_generator.py",
        "len(request.prompt) - PREFILL_TOKENS_MIN)",
        "len(request.prompt) - 1)",
        _BITS,
    ),
    (
        "texts-overwrite-a-prompt-in-parts",
        "a decode overwrites no cell of a prompt that is not read to its end",
        "generation/slot_decoder.py",
        "(0, filled.get(slot, 0))",
        "(0, 0)",
        _BITS,
    ),
    (
        "cells-left-behind",
        "a text that moves to a lower slot takes its cells along",
        "generation/text_generator.py",
        "            self._decoder.cells.move(request.slot, slot, request.cells)\n",
        "",
        _BITS,
    ),
    (
        "one-number-for-all-tokens",
        "each token has a random number of its own",
        "generation/text_generator.py",
        "choose(logits, request.options, len(request.tokens), ",
        "choose(logits, request.options, 0, ",
        _BITS,
    ),
    (
        "recorded-results-for-everybody",
        "a lane gets recorded results only where its binding accepts them",
        "common/work.py",
        "if provenance.result_class == RECORDED and not code.recorded:",
        "if provenance.result_class == RECORDED and not code.digest:",
        _RESULTS,
    ),
    (
        "unrepeatable-without-verdict",
        "a model that cannot repeat its results is refused",
        "broker/undone.py",
        "elif result.stopped in (REFUSED, UNREPEATABLE):",
        "elif result.stopped == REFUSED:",
        _RESULTS,
    ),
    (
        "broken-certificate-untold",
        "two bitwise results of one fingerprint that differ are a divergence",
        "broker/workers.py",
        "if source is not None and source.result_class == RECORDED:",
        "if source is not None:",
        _RESULTS,
    ),
    (
        "bits-of-other-fingerprints",
        "results of different fingerprints may differ",
        "broker/workers.py",
        " and source.fingerprint == kept.fingerprint",
        "",
        _RESULTS,
    ),
    (
        "neighbours-not-compared",
        "a model whose rows depend on their neighbours shares no batch",
        "gpu_worker/probes.py",
        "        if trial.neighbours.differing:\n",
        "        if trial.neighbours.differing < 0:\n",
        _PROBES,
    ),
    (
        "positions-not-compared",
        "a model whose rows depend on their position shares no batch",
        "gpu_worker/probes.py",
        "        if trial.positions.differing:\n",
        "        if trial.positions.differing < 0:\n",
        _PROBES,
    ),
    (
        "sizes-not-compared",
        "all sizes of a certificate give the same bits",
        "gpu_worker/probes.py",
        "home = next((group for group in groups if not _compared(found, size, group[0]).differing), None)",
        "home = next(iter(groups), None)",
        _PROBES,
    ),
    (
        "draws-in-branches",
        "an operator that draws numbers is found in branches and bodies too",
        "gpu_worker/draws.py",
        "_ATTRIBUTE_GRAPHS: Final = (6, 11)",
        "_ATTRIBUTE_GRAPHS: Final = (11,)",
        ("tests/gpu_worker/test_draws.py",),
    ),
    (
        "training-mode-trusted",
        "a Dropout that may train draws numbers",
        "gpu_worker/draws.py",
        "            if not constants.get(mode[0], False):\n",
        "            if constants is None:\n",
        ("tests/gpu_worker/test_draws.py",),
    ),
    (
        "other-process-not-compared",
        "a model with other bits in another process is unstable",
        "gpu_worker/certificate.py",
        "if probe == self.probe or not self.is_repeatable:",
        "if probe or not self.is_repeatable:",
        _CERTIFICATES,
    ),
    (
        "certificate-of-another-model",
        "a certificate counts for its model and conditions only",
        "gpu_worker/certificate_store.py",
        'if (value["model"], value["conditions"]) == (model, conditions) else None',
        'if value["conditions"] else None',
        _CERTIFICATES,
    ),
    (
        "damaged-certificate-believed",
        "a certificate that was changed counts for nothing",
        "gpu_worker/certificate.py",
        '        if value.pop("digest") != _digest(value):\n',
        '        if not value.pop("digest"):\n',
        _CERTIFICATES,
    ),
    (
        "smallest-batch-for-all",
        "a batch is padded to a size that holds its rows",
        "gpu_worker/certificate.py",
        "next((size for size in self.sizes if size >= rows), 0)",
        "next(iter(self.sizes), 0)",
        _CERTIFICATES,
    ),
    (
        "bitwise-read-back",
        "bitwise results of models are computed again where their fingerprint is",
        "proof/model_answers.py",
        "            if here == source.fingerprint:\n                return None\n",
        "            if here != source.fingerprint:\n                return None\n",
        _PROOF,
    ),
    (
        "other-fingerprint-believed",
        "results of another fingerprint are named, not compared",
        "proof/model_answers.py",
        'self._here[digest] = (result.provenance.fingerprint, "")',
        'self._here[digest] = (source.fingerprint, "")',
        _PROOF,
    ),
)
