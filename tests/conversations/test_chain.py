"""The bytes of messages and nodes, and the heads that follow from them."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_call_strategies import messages

from rota.common.digests import digest, pack
from rota.common.errors import BadPayload, ConversationError
from rota.common.text_calls import ChatMessage, ToolCall, chat_message, message_fields
from rota.conversations.chain import (
    CONVERSATION_BYTES_MAX,
    MESSAGES_MAX,
    TAG,
    check_size,
    decode_message,
    decode_node,
    encode_message,
    encode_node,
    extend,
)

HELLO = ChatMessage("user", "hello")
ANSWER = ChatMessage("assistant", "hi", tool_calls=(ToolCall("c1", "look", '{"at":"sky"}'),))


def test_the_bytes_are_as_the_document_says() -> None:
    """Goal: another language can make the same heads. Method: bytes written out here, and the digests over them."""
    said = encode_message(HELLO)
    assert said.data == b"\x92\x92\xa7content\xa5hello\x92\xa4role\xa4user"
    assert said.digest.hex() == "0db7296a8821f2044c3fde9fb57581e5a7b690c1c1648519346b9bd897aa2360"
    node = encode_node(None, said.digest)
    assert node.data == b"\x93\xb3rota conversation 1\xc0\xc4\x20" + said.digest
    assert encode_node(node.digest, said.digest).data[21:55] == b"\xc4\x20" + node.digest
    assert node.digest == digest(node.data)


def test_what_a_message_does_not_have_is_not_in_its_bytes() -> None:
    """Goal: a new optional field later changes no old digest. Method: the pairs of two messages."""
    assert [key for key, _ in msgspec.msgpack.decode(encode_message(HELLO).data)] == ["content", "role"]
    assert [key for key, _ in msgspec.msgpack.decode(encode_message(ANSWER).data)] == ["content", "role", "tool_calls"]


def test_the_order_of_the_fields_does_not_count() -> None:
    """Goal: languages whose maps have no order make the same heads. Method: both orders of one message."""
    fields = message_fields(ANSWER)
    turned = dict(reversed(fields.items()))
    assert list(turned) != list(fields)
    assert encode_message(chat_message(turned)) == encode_message(ANSWER)


@given(st.lists(messages(), min_size=1, max_size=6), st.data())
def test_a_head_depends_on_the_messages_only(said: list[ChatMessage], data: st.DataObject) -> None:
    """Goal: adding one by one, in parts, or all at once is one conversation. Method: any cut of any messages."""
    whole, blobs = extend(None, said)
    cut = data.draw(st.integers(0, len(said)))
    part, first = extend(None, said[:cut])
    assert extend(part, said[cut:]) == (whole, blobs[len(first) :])
    assert [decode_message(blob.data) for blob in blobs[::2]] == said
    parents = [None, *[blob.digest for blob in blobs[1::2]]]
    assert [decode_node(blob.data).parent for blob in blobs[1::2]] == parents[:-1]
    assert parents[-1] == whole
    assert all(digest(blob.data) == blob.digest for blob in blobs)


def test_different_conversations_have_different_heads() -> None:
    """Goal: a head is a whole history. Method: other words, other order, other beginning, a cut."""
    said = [HELLO, ANSWER, ChatMessage("user", "more")]
    heads = [
        extend(None, one)[0]
        for one in (said, said[::-1], said[1:], said[:-1], [*said, HELLO], [HELLO._replace(name="bob"), *said[1:]])
    ]
    assert len(dict.fromkeys(heads)) == len(heads)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x91" * 5_000 + b"\xc0",
        pack([["role", "user"]]),
        pack([["role", "user"], ["content", "not sorted"]]),
        pack([["content", "twice"], ["content", "twice"], ["role", "user"]]),
        pack([["content", "x"], ["name", None], ["role", "user"]]),
        pack([["content", "x"], ["other", 1], ["role", "user"]]),
        pack({"content": "x", "role": "user"}),
        pack([["content", 1], ["role", "user"]]),
        pack([["content", "x"], ["role", "nobody"]]),
        encode_message(HELLO).data + b"\xc0",
        encode_node(None, bytes(32)).data,
        pack(7),
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    """Goal: a foreign row never becomes a message. Method: near misses, also those with the right digest."""
    with pytest.raises(ConversationError):
        decode_message(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        pack([TAG, None]),
        pack([TAG, None, bytes(31)]),
        pack([TAG, bytes(31), bytes(32)]),
        pack([TAG, "x", bytes(32)]),
        pack(["rota conversation 2", None, bytes(32)]),
        pack([TAG, None, bytes(32), 1]),
        encode_message(HELLO).data,
    ],
)
def test_bytes_that_are_no_node_are_refused(data: bytes) -> None:
    """Goal: the digest of a message, or of another version's node, is no head. Method: near misses."""
    with pytest.raises(ConversationError):
        decode_node(data)


def test_too_long_conversations_are_refused() -> None:
    """Goal: a chain cannot grow for ever. Method: both bounds, and one above each."""
    check_size(MESSAGES_MAX, CONVERSATION_BYTES_MAX)
    for size in ((MESSAGES_MAX + 1, 0), (1, CONVERSATION_BYTES_MAX + 1)):
        with pytest.raises(BadPayload, match=f"more than the {max(size) - 1} .* that are allowed"):
            check_size(*size)
