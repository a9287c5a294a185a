"""Levels of the grid maze: perfect mazes, a place for the mouse and one for the cheese, each by its number.

A level follows from its number alone, by a hash, so any levels can be made at once and in any order. The maze
of m × m rooms is a spanning tree by Kruskal's algorithm on random weights: exactly one path joins any two
squares. Levels come in two parts by a hash of what they show, the walls and the cheese: no board of the part
`test` is ever one of the part `train`, whatever their numbers.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt64

Part = Literal["train", "test"]

TEST_SHARE = 4
"""One board in so many belongs to the part `test`."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def make_levels(
    numbers: Int[np.ndarray, " n"], part: Part, board: int, sizes: tuple[int, ...]
) -> tuple[Bool[np.ndarray, "n board board"], Int[np.ndarray, "n 2"], Int[np.ndarray, "n 2"]]:
    """Walls, mouse and cheese of the levels of these numbers, of one part.

    Each maze has one of the odd `sizes` and lies anywhere on the board; places are [row, column].

    >>> walls, mouse, cheese = make_levels(np.arange(5), "train", 8, (3, 5, 7))
    >>> walls.shape, mouse.shape
    ((5, 8, 8), (5, 2))
    """
    n = len(numbers)
    walls = np.ones((n, board, board), dtype=bool)
    mouse, cheese = np.zeros((n, 2), dtype=np.int64), np.zeros((n, 2), dtype=np.int64)
    left, trial = np.arange(n), 0
    while len(left):
        keys = _hashed(_hashed(numbers[left].astype(np.uint64)) + np.uint64(trial))
        made = _candidates(keys, board, sizes)
        suits = _is_test(made[0], made[2]) == (part == "test")
        for kept, new in zip((walls, mouse, cheese), made, strict=True):
            kept[left[suits]] = new[suits]
        left, trial = left[~suits], trial + 1
    return walls, mouse, cheese


def stream_numbers(seed: int, start: int, count: int, n_levels: int | None) -> Int[np.ndarray, " count"]:
    """Numbers of the levels at places start … start + count − 1 of a stream; of `n_levels` where given.

    >>> bool((stream_numbers(0, 3, 2, 10) == stream_numbers(0, 0, 5, 10)[3:]).all())
    True
    """
    places = np.arange(start, start + count, dtype=np.uint64)
    numbers = _hashed(_hashed(np.full(1, seed, dtype=np.uint64)) + places * _GOLDEN)
    return (numbers % np.uint64(n_levels or 2**62)).astype(np.int64)


def _candidates(
    keys: UInt64[np.ndarray, " n"], board: int, sizes: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boards drawn by these keys, of either part."""
    n = len(keys)
    draws = _hashed(keys[:, None] + np.arange(5, dtype=np.uint64) * _GOLDEN)
    walls = np.ones((n, board, board), dtype=bool)
    mouse, cheese = np.zeros((n, 2), dtype=np.int64), np.zeros((n, 2), dtype=np.int64)
    which = draws[:, 0] % np.uint64(len(sizes))
    for number, size in enumerate(sizes):
        here = np.flatnonzero(which == number)
        if not len(here):
            continue
        mazes = _mazes(keys[here], size)
        corner = (draws[here, 1:3] % np.uint64(board - size + 1)).astype(np.int64)
        free = np.argwhere(mazes)[:, 1:].reshape(len(here), -1, 2) + corner[:, None]
        rows = np.arange(len(here))
        walls[here[:, None], free[..., 0], free[..., 1]] = False
        first = (draws[here, 3] % np.uint64(free.shape[1])).astype(np.int64)
        step = (draws[here, 4] % np.uint64(free.shape[1] - 1)).astype(np.int64)
        mouse[here] = free[rows, first]
        cheese[here] = free[rows, (first + 1 + step) % free.shape[1]]
    return walls, mouse, cheese


def _mazes(keys: UInt64[np.ndarray, " n"], size: int) -> Bool[np.ndarray, "n size size"]:
    """The free squares of perfect mazes: rooms at even places, and the passages of a spanning tree.

    All mazes of a size have equally many, 2 m² − 1 for m × m rooms.
    """
    ends, passages = _edges(size)
    n, rooms = len(keys), ((size + 1) // 2) ** 2
    weights = _hashed(_hashed(keys)[:, None] + np.arange(len(ends), dtype=np.uint64) * _GOLDEN)
    order = weights.argsort(axis=1)
    trees = np.tile(np.arange(rooms), (n, 1))  # of each room, the tree that it is in
    free = np.zeros((n, size, size), dtype=bool)
    free[:, ::2, ::2] = True
    rows = np.arange(n)
    for edge in order.T:
        one, other = trees[rows, ends[edge, 0]], trees[rows, ends[edge, 1]]
        free[rows, passages[edge, 0], passages[edge, 1]] |= one != other
        trees = np.where(trees == other[:, None], one[:, None], trees)
    return free


@cache
def _edges(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of neighbouring rooms [n, 2], and the square between each [n, 2]."""
    m = (size + 1) // 2
    ends, passages = [], []
    for row in range(m):
        for column in range(m):
            if column + 1 < m:
                ends.append((row * m + column, row * m + column + 1))
                passages.append((2 * row, 2 * column + 1))
            if row + 1 < m:
                ends.append((row * m + column, (row + 1) * m + column))
                passages.append((2 * row + 1, 2 * column))
    return np.array(ends), np.array(passages)


def _is_test(walls: Bool[np.ndarray, "n board board"], cheese: Int[np.ndarray, "n 2"]) -> np.ndarray:
    """Whether boards belong to the part `test`."""
    packed = np.packbits(walls.reshape(len(walls), -1), axis=1)
    packed = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 8)))
    key = _hashed((cheese[:, 0] * walls.shape[2] + cheese[:, 1]).astype(np.uint64))
    for word in packed.view(np.uint64).T:
        key = _hashed(key ^ word)
    return key % np.uint64(TEST_SHARE) == 0


def _hashed(x: Shaped[np.ndarray, "..."]) -> UInt64[np.ndarray, "..."]:
    """A permutation of the 64-bit numbers that looks random (splitmix64: Steele, Lea, Flood, 2014)."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
