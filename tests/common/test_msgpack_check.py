"""Bytes are whole exactly where the library can unpack them."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rota.common.msgpack_check import is_whole


@given(st.binary(max_size=40) | st.lists(st.sampled_from([b"\x92", b"\x01", b"\x81", b"\xa1", b"\xc0"])).map(b"".join))
def test_whole_is_what_can_be_unpacked(data: bytes) -> None:
    try:
        msgpack.unpackb(data, raw=True, strict_map_key=False, object_pairs_hook=list, timestamp=0)
        whole = True
    except (ValueError, msgpack.UnpackException):
        whole = False
    # A time stamp of a wrong length is whole, and no value.
    assert is_whole(data) == whole or (is_whole(data) and b"\xff" in data)


@pytest.mark.parametrize("head", [b"\xdd\x00\x0f\xff\xff", b"\xdf\x00\x0f\xff\xff", b"\xdb\x7f\xff\xff\xff"])
def test_heads_without_their_items_are_not(head: bytes) -> None:
    assert not is_whole(head * 900)
    assert not is_whole(head * 900 + bytes(1 << 20))
