"""Messages and chains as bytes. PURE.

    message   MessagePack of its [key, value] pairs, sorted by key; named by the BLAKE3 of these bytes
    node      MessagePack of ["rota conversation 1", digest of the parent node or nil, digest of the message]
    head      the digest of a node: it names a message and, through its parents, all messages before it

So a conversation is named by 32 bytes, two conversations share what they have in common, and continuing from an earlier
head is a fork. A message has the fields that it has on the wire (common/text_calls.py); another form needs another tag.
docs/INFERENCE.md and docs/decisions/0018 describe this.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from rota.common.digests import DIGEST_BYTES, digest, pack
from rota.common.errors import BadPayload, ConversationError
from rota.common.limits import OUTPUT_BYTES_MAX
from rota.common.text_calls import ChatMessage, chat_message, message_fields

TAG: Final = "rota conversation 1"
NODE_PREFIX: Final = b"\x93" + pack(TAG)  # no message begins like this
MESSAGES_MAX: Final = 4_096  # of one conversation
CONVERSATION_BYTES_MAX: Final = OUTPUT_BYTES_MAX  # of its messages as stored: more than any context, and no long answer

_unpack: Final = msgspec.msgpack.Decoder().decode


class ChainBlob(NamedTuple):
    """A message or a node as stored: its bytes, and the digest that names them."""

    digest: bytes
    data: bytes


class ChainNode(NamedTuple):
    """One link of a chain: the digest of the node before it, None at the beginning, and that of its message."""

    parent: bytes | None
    message: bytes


def encode_message(message: ChatMessage) -> ChainBlob:
    """Return a message as stored."""
    data = pack(sorted(message_fields(message).items()))
    return ChainBlob(digest(data), data)


def decode_message(data: bytes) -> ChatMessage:
    """Return a stored message. Raises `ConversationError` if the bytes are none."""
    pairs = _decoded(data)
    try:
        message = chat_message(dict(pairs))
    except (BadPayload, TypeError, ValueError):
        message = None
    if message is None or encode_message(message).data != data:
        raise ConversationError("the store holds something else in the place of a message")
    return message


def encode_node(parent: bytes | None, message: bytes) -> ChainBlob:
    """Return the node that adds a message, given by its digest, to a chain."""
    assert parent is None or len(parent) == DIGEST_BYTES
    assert len(message) == DIGEST_BYTES
    data = pack([TAG, parent, message])
    return ChainBlob(digest(data), data)


def decode_node(data: bytes) -> ChainNode:
    """Return a stored node. Raises `ConversationError` if the bytes are none."""
    value = _decoded(data)
    if isinstance(value, list) and len(value) == 3 and value[0] == TAG:
        _, parent, message = value
        if _is_digest(message) and (parent is None or _is_digest(parent)):
            return ChainNode(parent, message)
    raise ConversationError("this digest names no head of a conversation, or one of another version of rota")


def extend(head: bytes | None, messages: Iterable[ChatMessage]) -> tuple[bytes | None, list[ChainBlob]]:
    """Return the head after these messages, and what must be stored for it. `head` is None for a new conversation.

    The same messages after the same head give the same head, whether added at once or one by one.
    """
    blobs: list[ChainBlob] = []
    for message in messages:
        said = encode_message(message)
        node = encode_node(head, said.digest)
        blobs += (said, node)
        head = node.digest
    return head, blobs


def check_size(messages: int, size_bytes: int) -> None:
    """Raise `BadPayload` if a conversation of so many messages and bytes is too long."""
    for value, bound, unit in ((messages, MESSAGES_MAX, "messages"), (size_bytes, CONVERSATION_BYTES_MAX, "bytes")):
        if value > bound:  # how much more is not said: a chain is read back to front, and not to its beginning
            raise BadPayload(
                f"the conversation has more than the {bound} {unit} that are allowed: begin a new one with a summary"
            )


def _is_digest(value: Any) -> bool:
    return isinstance(value, bytes) and len(value) == DIGEST_BYTES


def _decoded(data: bytes) -> Any:
    try:
        return _unpack(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise ConversationError("the store holds something else than MessagePack") from None
