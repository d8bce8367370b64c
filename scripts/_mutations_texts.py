"""Faults in conversations and in texts for encoders. For _mutations.py: the fields of its `Mutation`."""

from __future__ import annotations

from typing import Final

_CHAIN: Final = ("tests/conversations/test_chain.py",)
_STORE: Final = ("tests/conversations/test_store.py",)
_KEPT: Final = ("tests/conversations/test_retention.py",)
_TURNS: Final = ("tests/gpu_worker/test_conversations.py",)
_VECTORS: Final = ("tests/gpu_worker/test_text_encoder.py", "tests/gpu_worker/test_pooling.py")

TEXT_FAULTS: Final = (
    (
        "head-without-its-past",
        "a head names all messages before it",
        "conversations/chain.py",
        "data = pack([TAG, parent, message])",
        "data = pack([TAG, None, message])",
        _CHAIN,
    ),
    (
        "history-unchecked",
        "damage in the store is never another history",
        "conversations/store.py",
        "if not isinstance(data, bytes) or digest_bytes(data) != digest:",
        "if not isinstance(data, bytes):",
        _STORE,
    ),
    (
        "written-to-a-file-without-a-name",
        "a store that was removed is made again",
        "conversations/store.py",
        "if self._connection is not None and file_identity(self.path) != self._identity:",
        "if self._connection is not None and self._identity is None:",
        _STORE,
    ),
    (
        "named-conversations-removed",
        "compaction keeps a conversation that something kept names",
        "conversations/retention.py",
        "for head in (*named, *[digest for (digest,) in used]):",
        "for head in [digest for (digest,) in used]:",
        _KEPT,
    ),
    (
        "turn-without-its-history",
        "a model sees the whole conversation that a task continues",
        "gpu_worker/text_runs.py",
        "return self._conversations.history(request.conversation, messages)",
        "return self._conversations.history(None, messages)",
        _TURNS,
    ),
    (
        "answer-not-in-the-chain",
        "the head of a result is behind the answer",
        "gpu_worker/text_runs.py",
        "(*(request.messages or ()), answer))",
        "(request.messages or ()))",
        _TURNS,
    ),
    (
        "padding-in-the-mean",
        "the vector of a text is made from its own tokens",
        "gpu_worker/text_encoder.py",
        "return mean_of_tokens(output[0], count)",
        "return mean_of_tokens(output[0], len(output[0]))",
        _VECTORS,
    ),
    (
        "sum-in-any-order",
        "a mean is added up from the first token to the last",
        "gpu_worker/pooling.py",
        "np.add.accumulate(tokens[:count].astype(np.float64), axis=0)[-1]",
        "np.add.reduce(tokens[:count].astype(np.float64), axis=0)",
        _VECTORS,
    ),
)
