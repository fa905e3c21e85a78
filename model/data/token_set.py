"""Sets of tokens of a shard, by their places in it. Imports no torch."""

from typing import Self

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_WAITING = 1 << 20


class TokenSet:
    """Tokens as intervals that do not touch: the more of a shard is in the set, the fewer they become.

    Memory is that of the intervals and of at most as many, or a million, that wait to be joined to them.
    """

    def __init__(self) -> None:
        self._begins = self._ends = np.zeros(0, np.int64)
        self._waiting: list[tuple[Integers, Integers]] = []
        self._count = 0

    def add(self, begins: Integers, ends: Integers) -> None:
        """Add the tokens of intervals, `[n]` each, ends exclusive, which may overlap each other and the set."""
        self._waiting.append((begins, ends))
        self._count += len(begins)
        if self._count > max(_WAITING, len(self._begins)):
            self._join()

    def update(self, other: Self) -> None:
        """Add the tokens of another set."""
        other._join()
        self.add(other._begins, other._ends)

    def __len__(self) -> int:
        self._join()
        return int((self._ends - self._begins).sum())

    def _join(self) -> None:
        columns = zip((self._begins, self._ends), *self._waiting, strict=True)
        begins, ends = map(np.concatenate, columns)
        order = np.argsort(begins, kind="stable")
        begins, ends = begins[order], np.maximum.accumulate(ends[order])
        first = np.ones(len(begins), bool)
        first[1:] = begins[1:] > ends[:-1]
        self._begins, self._ends = begins[first], ends[np.roll(first, -1)]
        self._waiting, self._count = [], 0
