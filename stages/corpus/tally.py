"""Counts of documents and bytes, grouped by name."""

from collections import Counter
from collections.abc import Iterable
from typing import TypedDict


class Count(TypedDict):
    """How much text: documents, and UTF-8 bytes."""

    documents: int
    bytes: int


def total(counts: Iterable[Count]) -> Count:
    """Return the sum of counts."""
    every = list(counts)
    return Count(documents=sum(one["documents"] for one in every), bytes=sum(one["bytes"] for one in every))


class Tally:
    """Documents and bytes by group; groups come out in name order."""

    def __init__(self) -> None:
        """Start at zero."""
        self._documents: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add(self, group: str, size: int) -> None:
        """Count one document of `size` bytes in a group."""
        self._documents[group] += 1
        self._bytes[group] += size

    def by_group(self) -> dict[str, Count]:
        """Return the counts of every group."""
        return {group: Count(documents=self._documents[group], bytes=self._bytes[group]) for group in self.groups()}

    def documents(self) -> dict[str, int]:
        """Return the number of documents of every group."""
        return {group: self._documents[group] for group in self.groups()}

    def groups(self) -> list[str]:
        """Return the groups in name order."""
        return sorted(self._documents)

    def total(self) -> Count:
        """Return the sum over the groups."""
        return Count(documents=self._documents.total(), bytes=self._bytes.total())
