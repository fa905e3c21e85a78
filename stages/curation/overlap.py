"""An index of the word n-grams of evaluation rows, and the passages of a text that share one with them.

Words and their normalisation are those of `stages.curation.shingles`: runs of letters, digits and underscores in
lower case, so that punctuation, white space and case do not count. An n-gram is known by 64 bits: a trillion words
against three million n-grams give a false one with probability 0.16.

An index takes 12 bytes an n-gram and row, and a table of 8 to 16 bytes an n-gram that answers most look-ups.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stages.curation.benchmarks import Row
from stages.curation.shingles import Hashes, shingles, word_spans

_BLOCK_CHARACTERS = 1 << 22
_TABLE_PER_NGRAM = 8


class Passage(NamedTuple):
    """A part of a text, all of whose words are in n-grams of evaluation rows.

    Attributes:
        start: Of its first word, in characters.
        end: Of its last word.
        ngrams: How many n-grams it has.
        rows: The rows' numbers in the index, ascending.
    """

    start: int
    end: int
    ngrams: int
    rows: tuple[int, ...]


class Index:
    """The n-grams of rows, ready for look-ups."""

    def __init__(self, rows: Iterable[Row], ngram: int) -> None:
        """Hash all n-grams; rows of fewer words have none."""
        self.ngram = ngram
        self.names: list[tuple[str, str]] = []
        self.short: list[int] = []
        pairs = [self._block(block) for block in _blocks(rows)]
        hashes = np.concatenate([np.zeros(0, np.uint64), *(hashes for hashes, _ in pairs)])
        numbers = np.concatenate([np.zeros(0, np.uint32), *(numbers for _, numbers in pairs)])
        order = np.lexsort((numbers, hashes))
        self._hashes, self._rows = hashes[order], numbers[order]
        bits = max(16, (_TABLE_PER_NGRAM * hashes.size).bit_length())
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[hashes >> self._shift] = True

    @property
    def bytes(self) -> int:
        """Memory that the index takes, without the rows' names."""
        return self._hashes.nbytes + self._rows.nbytes + self._table.nbytes

    def passages(self, text: str) -> list[Passage]:
        """Return the passages of a text that are in evaluation rows, in order; they do not overlap."""
        text = _same_length(text)
        runs = shingles(text, self.ngram)
        maybe = np.flatnonzero(self._table[runs >> self._shift])
        first = np.searchsorted(self._hashes, runs[maybe], "left")
        last = np.searchsorted(self._hashes, runs[maybe], "right")
        hits = last > first
        if not hits.any():
            return []
        return self._joined(word_spans(text), maybe[hits], first[hits], last[hits])

    def _joined(
        self, spans: NDArray[np.int64], hits: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
    ) -> list[Passage]:
        """Return a passage for each run of n-grams that share a word."""
        cuts = np.flatnonzero(np.diff(hits) >= self.ngram) + 1
        passages = []
        for group in np.split(np.arange(hits.size), cuts):
            start, end = spans[hits[group[0]], 0], spans[hits[group[-1]] + self.ngram - 1, 1]
            rows = {int(row) for hit in group for row in self._rows[first[hit] : last[hit]]}
            passages.append(Passage(int(start), int(end), group.size, tuple(sorted(rows))))
        return passages

    def _block(self, rows: Sequence[Row]) -> tuple[Hashes, NDArray[np.uint32]]:
        """Return the distinct n-grams and the number of the row for each."""
        text = "\n".join(_same_length(row.text) for row in rows)
        ends = np.cumsum([len(row.text) + 1 for row in rows])
        owner = np.searchsorted(ends, word_spans(text)[:, 0], "right")
        short = np.flatnonzero(np.bincount(owner, minlength=len(rows)) < self.ngram)
        self.short.extend((short + len(self.names)).tolist())
        numbers = (owner + len(self.names)).astype(np.uint32)
        self.names.extend((row.benchmark, row.row) for row in rows)
        if numbers.size < self.ngram:
            return np.zeros(0, np.uint64), np.zeros(0, np.uint32)
        within = numbers[: numbers.size - self.ngram + 1] == numbers[self.ngram - 1 :]
        return shingles(text, self.ngram)[within], numbers[: within.size][within]


def _blocks(rows: Iterable[Row]) -> Iterable[list[Row]]:
    block: list[Row] = []
    length = 0
    for row in rows:
        block.append(row)
        length += len(row.text)
        if length >= _BLOCK_CHARACTERS:
            yield block
            block, length = [], 0
    if block:
        yield block


def _same_length(text: str) -> str:
    """Return the text without the one character that is longer in lower case, so that positions agree."""
    return text.replace("\u0130", "i")
