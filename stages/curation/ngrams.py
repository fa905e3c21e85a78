"""How much of each text repeated n-grams of words are, for a whole batch at once.

Counts are exact but for collisions of 64-bit hashes. Most n-grams occur once, and are told apart by a count of
buckets; only what shares a bucket is sorted.
"""

from typing import NamedTuple

import numpy as np

from stages.curation.words import BASE, Bools, Hashes, Ints, Words

_SPACE = np.uint64(ord(" ") + 1)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_BASE = np.uint64(BASE)


class _Repeated(NamedTuple):
    """N-grams that occur more than once in their text, in order.

    Attributes:
        places: Where each starts, in words.
        groups: Equal numbers, equal n-grams of the same text.
    """

    places: Ints
    groups: Ints


class NGrams:
    """The n-grams of a batch of texts; no n-gram reaches from one text into the next."""

    def __init__(self, words: Words) -> None:
        """Take the words of the texts."""
        self._words = words
        self._text = np.repeat(np.arange(len(words.counts)), words.counts)
        self._place_ends = np.cumsum(np.concatenate(([0], words.vocabulary.lengths[words.ids])))
        self._joined = _Joined(words, separated=False)
        self._separated = _Joined(words, separated=True)

    def top_characters(self, n: int, texts: Bools) -> Ints:
        """Return the characters of the most frequent n-gram, its words joined by spaces, times its count.

        Of several, the first counts; a text with fewer than n words has 0. Only `texts` are counted.
        """
        counts, bounds = np.where(texts, self._words.counts, 0), self._words.bounds
        best, times = bounds[:-1].copy(), np.ones(len(counts), np.int64)
        places, groups = self._repeated(self._separated, n, texts)
        _, first, of, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        is_first = np.zeros(len(places), np.bool_)
        is_first[first] = True
        places, size = places[is_first], size[of][is_first]
        order = np.lexsort((places, -size, self._text[places]))
        text, leaders = np.unique(self._text[places[order]], return_index=True)
        best[text], times[text] = places[order][leaders], size[order][leaders]
        ends = np.minimum(best + n, bounds[1:])
        characters = self._place_ends[ends] - self._place_ends[best] + n - 1
        return np.where(counts >= n, characters * times, 0)

    def repeated_characters(self, n: int, texts: Bools) -> Ints:
        """Return the characters of the n-grams that repeat an earlier one of the text and do not overlap.

        As in datatrove, n-grams are equal if their words are when written together, and the scan goes on behind a
        repeated n-gram. Only `texts` are counted.
        """
        places, groups = self._repeated(self._joined, n, texts)
        found, seen, free = [], set(), 0
        for place, group in zip(places.tolist(), groups.tolist(), strict=True):
            if place < free:
                continue
            if group in seen:
                found.append(place)
                free = place + n
            else:
                seen.add(group)
        hits = np.array(found, np.int64)
        characters = self._place_ends[hits + n] - self._place_ends[hits]
        return np.bincount(self._text[hits], characters, len(self._words.counts)).astype(np.int64)

    def _repeated(self, joined: "_Joined", n: int, texts: Bools) -> _Repeated:
        size = max(len(self._text) - n + 1, 0)
        within = self._text[:size] == self._text[len(self._text) - size :]
        places = np.flatnonzero(within & texts[self._text[:size]])
        keys = (joined.hashes(n, places) + self._text[places].astype(np.uint64) * _BASE) * _MIX
        for skipped_bits in (0, 24):
            places, keys = _sharing(places, keys, skipped_bits)
        _, groups, counts = np.unique(keys, return_inverse=True, return_counts=True)
        often = counts[groups] > 1
        return _Repeated(places[often], groups[often])


class _Joined:
    """The hash of the characters of any n words that follow one another."""

    def __init__(self, words: Words, *, separated: bool) -> None:
        codes, shifts = words.vocabulary.hashes[words.ids], words.vocabulary.shifts[words.ids]
        if separated:
            codes, shifts = codes + _SPACE * shifts, shifts * _BASE
        before = np.concatenate((np.ones(1, np.uint64), np.cumprod(shifts)))[:-1]
        self._sums = np.concatenate((np.zeros(1, np.uint64), np.cumsum(codes * before)))
        self._behind = np.cumprod(shifts[::-1])[::-1]

    def hashes(self, n: int, places: Ints) -> Hashes:
        """Return the hash of the n words from each place, times a power of the base that is the same for all."""
        hashes: Hashes = (self._sums[places + n] - self._sums[places]) * self._behind[places]
        return hashes


def _sharing(places: Ints, keys: Hashes, skipped_bits: int) -> tuple[Ints, Hashes]:
    """Return the places whose keys share a bucket with another's: all that are equal, and few others."""
    bits = min(max(len(keys).bit_length() + 1, 1), 24)
    buckets = (keys << np.uint64(skipped_bits) >> np.uint64(64 - bits)).astype(np.int64)
    shared = np.bincount(buckets, minlength=1 << bits)[buckets] > 1
    return places[shared], keys[shared]
