"""Tells a damaged WAL from a torn one. SQLite treats both as torn and silently drops the rest.

A WAL torn by a crash ends in one transaction that was not durable; all before it were, because a commit waits for its
fsync before the next one begins. So bad frames with more than one later commit behind them are damage to acknowledged
records. Format and checksum: https://www.sqlite.org/fileformat2.html#walformat, "WAL Frame Header" and "Checksum
Algorithm". This only reads, before SQLite opens the file for writing.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

_HEADER_BYTES: Final = 32
_FRAME_HEADER_BYTES: Final = 24
_MAGIC_LITTLE: Final = 0x377F0682  # checksums over little-endian words
_MAGIC_BIG: Final = 0x377F0683
_PAGE_BYTES: Final = tuple(1 << shift for shift in range(9, 17))  # "The Database Header", page size
_LOST_COMMITS_MIN: Final = 2  # one may be the torn transaction's own


def find_damage(wal: Path) -> str:
    """Return where a WAL is damaged; empty if it is intact, torn at its end, or missing."""
    try:
        data = wal.read_bytes()
    except FileNotFoundError:
        return ""
    if len(data) < _HEADER_BYTES or not any(data[:_HEADER_BYTES]):
        return ""
    magic, _, page_bytes, _, salt_1, salt_2, sum_1, sum_2 = struct.unpack(">8I", data[:_HEADER_BYTES])
    order = {_MAGIC_LITTLE: "<", _MAGIC_BIG: ">"}.get(magic)
    if order is None or page_bytes not in _PAGE_BYTES or _checksum(order, data[:24], 0, 0) != (sum_1, sum_2):
        return "its header does not check"
    return _scan_frames(data, order, page_bytes, (salt_1, salt_2), (sum_1, sum_2))


def _scan_frames(data: bytes, order: str, page_bytes: int, salts: tuple[int, int], sums: tuple[int, int]) -> str:
    """Follow the chain of checksums to its end; count the commits behind it that have this WAL's salts."""
    frame_bytes = _FRAME_HEADER_BYTES + page_bytes
    damaged = lost = 0
    for number, at in enumerate(range(_HEADER_BYTES, len(data) - frame_bytes + 1, frame_bytes), start=1):
        _, database_pages, *rest = struct.unpack(">6I", data[at : at + _FRAME_HEADER_BYTES])
        if (rest[0], rest[1]) != salts:
            if not damaged and any(data[at : at + _FRAME_HEADER_BYTES]):
                damaged = number  # salts from before the last reset, or damaged
            continue
        if not damaged:
            sums = _checksum(order, data[at : at + 8], *sums)
            sums = _checksum(order, data[at + _FRAME_HEADER_BYTES : at + frame_bytes], *sums)
            if sums != (rest[2], rest[3]):
                damaged = number
        if damaged and database_pages:
            lost += 1
    return f"frame {damaged} does not check, and {lost} transactions follow it" if lost >= _LOST_COMMITS_MIN else ""


def _checksum(order: str, data: bytes, sum_1: int, sum_2: int) -> tuple[int, int]:
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for first, second in zip(words[::2], words[1::2], strict=True):
        sum_1 = (sum_1 + first + sum_2) & 0xFFFFFFFF
        sum_2 = (sum_2 + second + sum_1) & 0xFFFFFFFF
    return sum_1, sum_2
