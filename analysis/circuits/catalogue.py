"""Sources by number: far more are met than come into a graph, and only these are made."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from analysis.circuits.readers import Source, Stage


class Catalogue:
    """Sources by numbers from 0, in families of which each has a range, a stage and a way to make one.

    The same source has the same number wherever it is met: families have names, sources by themselves that of
    their node.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stages: list[Stage] = []
        self._makers: list[Callable[[int], Source]] = []
        self._by_name: dict[str, int] = {}
        self._made: dict[int, Source] = {}
        self._end = 0

    def family(self, name: str, at: Stage, n: int, make: Callable[[int], Source]) -> int:
        """The number of the first of n sources of a stage; `make` makes one, by its index among them."""
        if name not in self._by_name:
            self._by_name[name] = self._end
            self._starts.append(self._end)
            self._stages.append(at)
            self._makers.append(make)
            self._end += n
        return self._by_name[name]

    def add(self, source: Source) -> int:
        """The number of one source."""
        return self.family(source.node.id, source.stage, 1, lambda _: source)

    def __getitem__(self, number: int) -> Source:
        if number not in self._made:
            family = bisect_right(self._starts, number) - 1
            self._made[number] = self._makers[family](number - self._starts[family])
        return self._made[number]

    def stages(self, numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The stages of sources."""
        return np.array(self._stages, dtype=np.int64)[self._families(numbers)]

    def _families(self, numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        return np.searchsorted(self._starts, numbers, side="right") - 1
