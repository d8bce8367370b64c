"""The prefix cache: what it finds, what it shares, what it forgets first."""

from __future__ import annotations

import random

import numpy as np

from rota.generation.prefix_cache import BLOCK_TOKENS, PrefixCache

CELL_BYTES = 8


def cells_for(tokens):
    """Return cells that tell which tokens they are of."""

    def cells_of(start: int, end: int):
        return np.array([[[[token] for token in tokens[start:end]]]], np.int64)

    return cells_of


def found(cache: PrefixCache, tokens, limit=None) -> list[int]:
    blocks = cache.find(tokens, len(tokens) if limit is None else limit)
    return [int(token) for block in blocks for token in block.ravel()]


def test_it_finds_the_longest_known_beginning_in_whole_blocks() -> None:
    """Goal: the right cells. Method: prompts that begin like a kept one, end inside it, or go on."""
    cache = PrefixCache(1 << 20)
    prompt = list(range(6 * BLOCK_TOKENS + 4))
    cache.add(prompt, cells_for(prompt))
    whole, place = 6 * BLOCK_TOKENS, 2 * BLOCK_TOKENS + 8
    assert found(cache, prompt) == prompt[:whole]
    assert found(cache, prompt, 2 * BLOCK_TOKENS + 3) == prompt[: 2 * BLOCK_TOKENS]
    assert found(cache, [*prompt[:place], 7, *prompt[place + 1 :]]) == prompt[: 2 * BLOCK_TOKENS]
    assert found(cache, prompt[1:]) == []
    assert found(cache, prompt, -1) == []


def test_prompts_share_their_beginning() -> None:
    """Goal: a dialogue is kept once. Method: bytes after a prompt and a longer one."""
    cache = PrefixCache(1 << 20)
    prompt = list(range(10 * BLOCK_TOKENS))
    cache.add(prompt[: 6 * BLOCK_TOKENS], cells_for(prompt))
    cache.add(prompt, cells_for(prompt))
    assert cache.held_bytes == len(prompt) * CELL_BYTES
    assert found(cache, prompt) == prompt


def test_it_keeps_within_its_bytes_and_forgets_the_oldest_first() -> None:
    """Goal: bounded, and never a hole in a prompt. Method: random prompts against what was used last."""
    blocks_max = 12
    cache = PrefixCache(blocks_max * BLOCK_TOKENS * CELL_BYTES)
    chance = random.Random(8)
    for number in range(300):
        start = chance.randrange(4)
        prompt = [start * 1000] * BLOCK_TOKENS + [number % 9] * (BLOCK_TOKENS * chance.randrange(8))
        cache.add(prompt, cells_for(prompt))
        assert cache.held_bytes <= cache.bytes_max
        assert found(cache, prompt) == prompt  # the one added last is whole
    assert cache.held_bytes == cache.bytes_max


def test_a_prompt_larger_than_all_of_it_keeps_its_beginning() -> None:
    """Goal: a long prompt does not push out its own beginning. Method: one of twice the bytes."""
    cache = PrefixCache(4 * BLOCK_TOKENS * CELL_BYTES)
    prompt = list(range(8 * BLOCK_TOKENS))
    cache.add(prompt, cells_for(prompt))
    assert found(cache, prompt) == prompt[: 4 * BLOCK_TOKENS]


def test_without_bytes_it_keeps_nothing() -> None:
    """Goal: the cache can be off. Method: 0 bytes."""
    cache = PrefixCache(0)
    cache.add(list(range(64)), cells_for(list(range(64))))
    assert found(cache, list(range(64))) == []
    assert cache.held_bytes == 0
