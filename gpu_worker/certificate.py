"""Certificates: what the probes found about the bits of a model, and how its calls may run because of it. PURE.

A certificate is a function of the model's files and of the conditions: the facts of the fingerprint without the digest
of its probe. Its classes:

    A   invariant: the bits of a row do not depend on its neighbours, its position, or the size of the batch
    B   position-sensitive: the row's place in the batch changes its bits, the neighbours do not
    C   coupled to its neighbours, or not probed for batches: each call runs alone at its own shape
    D   unstable, or it cannot be probed: its results are recorded values

A certificate of class A holds for a *shape set*: all extents of the inputs but the first, which counts the rows. Probes
are evidence, not proof; docs/INFERENCE.md says what they cannot see. The JSON form is a file beside the model
(certificate_store.py); with another field, raise FORMAT, and old files are probed again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, cast

from blake3 import blake3

from rota.common.errors import CodeError
from rota.common.model_call import Call

ModelClass = Literal["A", "B", "C", "D"]
CLASSES: Final = ("A", "B", "C", "D")

FORMAT: Final = 2
LADDER: Final = (2, 4, 8, 16, 32, 64)  # the sizes that are tried for batches

Extents = tuple[tuple[str, tuple[int, ...]], ...]
"""A shape set: each input's name with its extents after the first, sorted by name."""


class Evidence(NamedTuple):
    """What one probe did: how many runs at which batch size, rows compared, rows that differ, and by how much at most.

    `max_difference` is the largest absolute difference of two values, -1 if one is no number. `size` 0: several sizes.
    """

    probe: str
    size: int
    runs: int
    rows: int
    differing: int
    max_difference: float


class ShapeCertificate(NamedTuple):
    """What holds for the calls of one shape set. `sizes` is empty unless the class is A.

    All `sizes` (ascending, 1 among them only if it was proved equal too) give a row the same bits.
    """

    extents: Extents
    model_class: ModelClass
    sizes: tuple[int, ...]
    reason: str
    evidence: tuple[Evidence, ...] = ()

    @property
    def rows_max(self) -> int:
        """The most rows of a batch; 0 if there are no batches."""
        return self.sizes[-1] if self.sizes else 0

    def size_for(self, rows: int) -> int:
        """Return the size to pad `rows` rows to: the smallest that holds them, or 0 if none does.

        A call for which there is none runs alone at its own shape.
        """
        if rows < 1:
            return 0
        return next((size for size in self.sizes if size >= rows), 0)


class DecoderCertificate(NamedTuple):
    """How a decoder may generate, and whether cells of an earlier prompt may be used again.

    `sizes`: the rows that a decode may have, rising; all give a request the same bits, and the last is the number of
    slots. (1,) if requests would change each other.
    """

    sizes: tuple[int, ...]
    prefix_cache: bool
    evidence: tuple[Evidence, ...] = ()


class Certificate(NamedTuple):
    """What was found about a model under some conditions.

    `model_class` is the worst class of its shape sets, and `reason` says why it is not A. `probe` is the digest of the
    outputs for the fixed inputs, as `fingerprint.probe_digest` gives it, from the process that probed: a worker whose
    own session gives another one holds an unstable model. `empty_extents` are the free extents that a call may set to 0
    (empty_extents.py).
    """

    model_class: ModelClass
    reason: str
    probe: str
    shapes: tuple[ShapeCertificate, ...] = ()
    decoder: DecoderCertificate | None = None
    empty_extents: tuple[str, ...] = ()

    @property
    def is_repeatable(self) -> bool:
        """Whether results are class `bitwise`."""
        return self.model_class != "D"

    def shape_for(self, call: Call) -> ShapeCertificate | None:
        """Return the certificate of a call's shape set; None if there is none. Such a call runs alone."""
        extents = extents_of(call)
        return next((shape for shape in self.shapes if shape.extents == extents), None)

    def batch_size(self, call: Call) -> int:
        """Return the size to which a call is padded when it runs alone; 0: it runs at its own shape, in no batch.

        It depends on this certificate and the call, never on load: the calls of one shape set whose size is not 0 may
        share a batch of up to `shape_for(call).rows_max` rows, padded to `size_for` of its rows.
        """
        shape = self.shape_for(call)
        return 0 if shape is None else shape.size_for(rows_of(call))

    def class_of(self, call: Call) -> ModelClass:
        """Return the class that the result of a call names: A only where its shape set was certified."""
        if not self.is_repeatable:
            return "D"
        shape = self.shape_for(call)
        if shape is None or (shape.model_class == "A" and not shape.size_for(rows_of(call))):
            return "C"
        return shape.model_class

    def compared(self, probe: str) -> Certificate:
        """Return this certificate for a process whose own probe gave `probe`: class D if that is another digest."""
        if probe == self.probe or not self.is_repeatable:
            return self
        reason = f"differs between processes: the probe gave {self.probe[:16]} in one and {probe[:16]} here"
        return unstable(reason)._replace(empty_extents=self.empty_extents)


def unstable(reason: str, probe: str = "", evidence: tuple[ShapeCertificate, ...] = ()) -> Certificate:
    """Return a certificate of class D."""
    return Certificate("D", reason, probe, evidence)


def alone(reason: str, probe: str) -> Certificate:
    """Return a certificate of class C without shape sets: each call runs alone at its own shape."""
    return Certificate("C", reason, probe)


def of_shapes(shapes: tuple[ShapeCertificate, ...], probe: str) -> Certificate:
    """Return the certificate of a model with these shape sets, at least one: its class is the worst of theirs."""
    worst = max(shapes, key=lambda shape: CLASSES.index(shape.model_class))  # the first of equal ones
    return Certificate(worst.model_class, worst.reason, probe, shapes)


def extents_of(call: Call) -> Extents:
    """Return the shape set of a call."""
    return tuple(sorted([(name, tensor.shape[1:]) for name, tensor in call.inputs.items()]))


def rows_of(call: Call) -> int:
    """Return the rows of a call: the first extent of all inputs, or 0 if they have none or different ones."""
    rows = -1
    for tensor in call.inputs.values():
        first = tensor.shape[0] if tensor.shape else 0
        if rows not in (-1, first):
            return 0
        rows = first
    return max(rows, 0)


# --- the JSON form ------------------------------------------------------------------------------------------------


def encode(certificate: Certificate, model: str, conditions: Mapping[str, Any]) -> str:
    """Return the JSON of a certificate, with the model's digest, the conditions and a digest of all of it."""
    content = {"format": FORMAT, "model": model, **pairs_of(certificate), "conditions": conditions}
    return json.dumps({**content, "digest": _digest(content)}, indent=1, sort_keys=True) + "\n"


def pairs_of(certificate: Certificate) -> dict[str, Any]:
    """Return a certificate in types of JSON."""
    return {
        "class": certificate.model_class,
        "reason": certificate.reason,
        "probe": certificate.probe,
        "shapes": [_shape_pairs(shape) for shape in certificate.shapes],
        "decoder": None if certificate.decoder is None else _decoder_pairs(certificate.decoder),
        "empty_extents": list(certificate.empty_extents),
    }


def decode(text: str) -> tuple[Certificate, dict[str, Any]]:
    """Return a certificate and the whole JSON value. Raises `CodeError` if it is damaged or of another format."""
    try:
        value: dict[str, Any] = json.loads(text)
        if value["format"] != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        if value.pop("digest") != _digest(value):
            raise ValueError("its digest does not fit its content")
        decoder = value["decoder"]
        shapes = tuple([_shape_of(shape) for shape in value["shapes"]])
        model_class = cast(ModelClass, value["class"])
        found = Certificate(
            model_class,
            value["reason"],
            value["probe"],
            shapes,
            None if decoder is None else _decoder_of(decoder),
            tuple(value["empty_extents"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CodeError(f"it is no certificate: {str(error)[:200]}") from None
    return found, value


def _digest(content: Mapping[str, Any]) -> str:
    return blake3(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _shape_pairs(shape: ShapeCertificate) -> dict[str, Any]:
    return {
        "extents": {name: list(extents) for name, extents in shape.extents},
        "class": shape.model_class,
        "sizes": list(shape.sizes),
        "reason": shape.reason,
        "evidence": [one._asdict() for one in shape.evidence],
    }


def _shape_of(value: Mapping[str, Any]) -> ShapeCertificate:
    extents = tuple(sorted([(name, tuple(numbers)) for name, numbers in value["extents"].items()]))
    evidence = tuple([Evidence(**one) for one in value["evidence"]])
    return ShapeCertificate(extents, value["class"], tuple(value["sizes"]), value["reason"], evidence)


def _decoder_pairs(decoder: DecoderCertificate) -> dict[str, Any]:
    return {**decoder._asdict(), "sizes": list(decoder.sizes), "evidence": [one._asdict() for one in decoder.evidence]}


def _decoder_of(value: Mapping[str, Any]) -> DecoderCertificate:
    evidence = tuple([Evidence(**one) for one in value["evidence"]])
    return DecoderCertificate(tuple(value["sizes"]), value["prefix_cache"], evidence)
