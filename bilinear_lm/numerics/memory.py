"""How much is computed at once: intermediates stay within a bound, whatever the sizes of a layer."""

from __future__ import annotations

CHUNK_BYTES = 2**28
"""Intermediates larger than this are computed piece by piece."""


def rows_at_once(bytes_each: int) -> int:
    """How many rows fit `CHUNK_BYTES`, each with so many bytes on the way; at least one."""
    return max(1, CHUNK_BYTES // bytes_each)
