"""The words of documents, as numbers that the steps of a chain share.

Most of what stands between two spaces has been seen before, so a text is split at its whitespace, each chunk is looked
up, and only a new chunk is split into words. Everything else that steps ask of words is then arithmetic on arrays.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from spacy.lang.lex_attrs import is_punct
from spacy.pipeline import Sentencizer

from stages.curation.english import English
from stages.curation.punctuation import SYMBOLS

BASE = 0x9E3779B97F4A7C15  # of the polynomial modulo 2^64 that hashes strings of characters
ENDS_SENTENCE, PUNCTUATION = 1, 2
_MAX_CHUNKS = 1 << 20  # with their words, some 200 MB
_MAX_WORDS = 1 << 22
_SYMBOLS = "".join(sorted(SYMBOLS))
_SENTENCE_ENDS = frozenset(Sentencizer.default_punct_chars)

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


class Vocabulary(NamedTuple):
    """What is known of each word; every array has one value a word.

    Attributes:
        words: The number of each word.
        lengths: Characters.
        hashes: Of the characters, so that the hash of two words written together follows from theirs.
        shifts: BASE to the power of the length: what a hash is multiplied by when it moves behind the word.
        symbol: It has nothing but punctuation and control characters.
        alphabetic: It has a letter.
        kinds: ENDS_SENTENCE, PUNCTUATION (that ends none), or 0.
    """

    words: dict[str, int]
    lengths: Ints
    hashes: Hashes
    shifts: Hashes
    symbol: Bools
    alphabetic: Bools
    kinds: NDArray[np.uint8]


class Words(NamedTuple):
    """The words of some texts.

    Attributes:
        ids: The number of each word, text after text.
        bounds: Text i has the words from bounds[i] to bounds[i + 1].
        vocabulary: What is known of each word.
    """

    ids: NDArray[np.int32]
    bounds: Ints
    vocabulary: Vocabulary

    @property
    def counts(self) -> Ints:
        """Words of each text."""
        return np.diff(self.bounds)

    def sums(self, values: NDArray[Any]) -> Ints:
        """Return the sum over the words of each text of a value that every word of the vocabulary has."""
        return np.diff(np.concatenate(([0], np.cumsum(values[self.ids], dtype=np.int64)))[self.bounds])


class _Column:
    """An array that grows; what was taken from it before stays as it was."""

    def __init__(self, dtype: Any) -> None:
        self._values, self._size = np.empty(1024, dtype), 0

    def extend(self, values: Sequence[Any] | NDArray[Any]) -> None:
        end = self._size + len(values)
        if end > len(self._values):
            larger = np.empty(2 * end, self._values.dtype)
            larger[: self._size] = self.values
            self._values = larger
        self._values[self._size : end] = values
        self._size = end

    @property
    def values(self) -> NDArray[Any]:
        return self._values[: self._size]


class _Numbers(dict[str, int]):
    """Numbers strings in the order in which they are first asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._new: list[str] = []

    def __missing__(self, string: str) -> int:
        number = self[string] = len(self)
        self._new.append(string)
        return number

    def take_new(self) -> list[str]:
        """Return what was numbered since the last call."""
        new, self._new = self._new, []
        return new


class Splitter:
    """Splits texts into words, and remembers those of the latest texts."""

    def __init__(self, split: Callable[[str], list[str]]) -> None:
        """Take the function that splits a chunk without whitespace into words."""
        self._split = split
        self._forget()

    def _forget(self) -> None:
        self._chunks, self._words = _Numbers(), _Numbers()
        self._first, self._counts, self._flat = _Column(np.int64), _Column(np.int64), _Column(np.int32)
        self._columns = [_Column(kind) for kind in (np.int64, np.uint64, np.uint64, np.bool_, np.bool_, np.uint8)]
        self._remembered: dict[str, NDArray[np.int32]] = {}
        self._remembered_words = 0

    def words(self, texts: Sequence[str]) -> Words:
        """Return the words of texts; whitespace is none."""
        self._make_room()
        new = [text for text in dict.fromkeys(texts) if text not in self._remembered]
        found = self._look_up([text.split() for text in new])
        self._remembered.update(zip(new, found, strict=True))
        self._remembered_words += sum(map(len, found))
        return self._gather([self._remembered[text] for text in texts])

    def words_of_chunks(self, texts: Sequence[Sequence[str]]) -> Words:
        """Return the words of texts that are split at whitespace already."""
        self._make_room()
        return self._gather(self._look_up(texts))

    def _make_room(self) -> None:
        """Forget what memory has no room for, between two requests: numbers of words hold within one."""
        if len(self._chunks) > _MAX_CHUNKS:
            self._forget()
        if self._remembered_words > _MAX_WORDS:
            self._remembered, self._remembered_words = {}, 0

    def _gather(self, each: list[NDArray[np.int32]]) -> Words:
        bounds = np.cumsum([0, *map(len, each)])
        ids = np.concatenate(each) if each else np.empty(0, np.int32)
        return Words(ids, bounds, Vocabulary(self._words, *(column.values for column in self._columns)))

    def _look_up(self, texts: Iterable[Sequence[str]]) -> list[NDArray[np.int32]]:
        numbers = [np.fromiter(map(self._chunks.__getitem__, text), np.int64, len(text)) for text in texts]
        if new := self._chunks.take_new():
            self._learn(new)
        return [self._expand(chunks) for chunks in numbers]

    def _expand(self, chunks: Ints) -> NDArray[np.int32]:
        """Return the words of chunks."""
        counts = self._counts.values[chunks]
        ends = np.cumsum(counts)
        shift = np.repeat(self._first.values[chunks] - ends + counts, counts)
        words: NDArray[np.int32] = self._flat.values[shift + np.arange(len(shift))]
        return words

    def _learn(self, chunks: Sequence[str]) -> None:
        counts, flat = [], []
        for chunk in chunks:
            words = self._split(chunk)
            counts.append(len(words))
            flat += words
        self._first.extend(len(self._flat.values) + np.cumsum(counts) - counts)
        self._counts.extend(counts)
        self._flat.extend(list(map(self._words.__getitem__, flat)))
        self._describe(self._words.take_new())

    def _describe(self, words: Sequence[str]) -> None:
        lengths = np.fromiter(map(len, words), np.int64, len(words))
        symbol, alphabetic = np.zeros(len(words), np.bool_), np.ones(len(words), np.bool_)
        kinds = np.zeros(len(words), np.uint8)
        others = [index for index, word in enumerate(words) if not word.isalpha()]  # few, and slow to look into
        for index in others:
            word = words[index]
            symbol[index], alphabetic[index] = not word.strip(_SYMBOLS), any(map(str.isalpha, word))
            kinds[index] = ENDS_SENTENCE if word in _SENTENCE_ENDS else PUNCTUATION * is_punct(word)
        values: Sequence[Any] = (lengths, *_hashes("".join(words), lengths), symbol, alphabetic, kinds)
        for column, each in zip(self._columns, values, strict=True):
            column.extend(each)


def _hashes(text: str, lengths: Ints) -> tuple[Hashes, Hashes]:
    """Return the hashes and shifts of the words that follow one another in a text."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64) + np.uint64(1)
    shifts, ends = _powers(int(lengths.max(initial=0)) + 1), np.cumsum(lengths)
    place = np.arange(len(codes)) - np.repeat(ends - lengths, lengths)
    sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(codes * shifts[place])))
    return sums[ends] - sums[ends - lengths], shifts[lengths]


def _powers(count: int) -> Hashes:
    """Return the powers 0 to count - 1 of the base modulo 2^64."""
    factors = np.full(count, BASE, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)


@cache
def english() -> Splitter:
    """Return this process's splitter for English."""
    return Splitter(English())
