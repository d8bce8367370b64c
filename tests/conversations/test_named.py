"""Finding the heads that bytes name, wherever they stand and wherever the bytes are cut."""

from __future__ import annotations

import msgpack
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rota.common.digests import digest
from rota.common.text_calls import ChatMessage, GenerateCall, encode_text_call
from rota.common.text_results import GenerateResult, Usage, encode_text_result
from rota.conversations.named import NamedHeads

HEADS = {digest(bytes([at])): None for at in range(50)}
HEAD, OTHER = list(HEADS)[:2]


def test_heads_of_calls_and_results_are_found() -> None:
    """Goal: what a record holds is seen without knowing the record. Method: a call and a result inside other bytes."""
    call = encode_text_call(GenerateCall(messages=(ChatMessage("user", "x"),), conversation=HEAD))
    result = encode_text_result(GenerateResult("x", (1,), "stop", None, Usage(1, 1), conversation=OTHER))
    new = encode_text_call(GenerateCall(messages=(ChatMessage("user", "x"),), conversation=b""))
    found = NamedHeads()
    found.see(msgpack.packb([7, new, b"rest"]))
    assert not found.said
    found.see(msgpack.packb([7, call + result, b"rest"]))
    assert list(found.said) == [HEAD, OTHER]
    assert not found.known


@given(st.binary(max_size=100), st.binary(max_size=100), st.integers(0, 300), st.sampled_from(["raw", "hex", "said"]))
def test_a_head_is_found_at_every_place_and_cut(before: bytes, after: bytes, cut: int, form: str) -> None:
    """Goal: no alignment and no border hides a head. Method: any bytes around one, cut anywhere into two parts."""
    said = b"\xacconversation\xc4\x20" + HEAD
    text = before + {"raw": HEAD, "hex": HEAD.hex().encode(), "said": said}[form] + after
    found = NamedHeads(HEADS)
    for part in (text[:cut], text[cut:]):
        found.see(part)
    hidden = form == "hex" and (before[-1:] in b"0123456789abcdef" and before != b"")
    assert hidden or list(found.known) == [HEAD]
    assert list(found.said) == ([HEAD] if form == "said" else [])


def test_other_bytes_name_nothing() -> None:
    """Goal: few rows are kept for nothing. Method: a million random bytes, and heads with one bit changed."""
    found = NamedHeads(HEADS)
    found.see(np.random.default_rng(1).bytes(1_000_000))
    found.see(b"".join(bytes([head[0] ^ 1, *head[1:]]) + head[:31] for head in HEADS))
    assert not found.known
    assert not found.said
