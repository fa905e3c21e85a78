"""How much of each text repeated n-grams of words are, for a whole batch at once.

Counts are exact but for collisions of 64-bit hashes. Most n-grams occur once, and most texts repeat less than is asked
about: a count of buckets, which is never too low, tells so. Only what is left is sorted.
"""

import numpy as np

from stages.curation.words import BASE, Bools, Hashes, Ints, Words

_SPACE = np.uint64(ord(" ") + 1)
_MIX = np.uint64(0xD6E8FEB86659FD93)
_BASE = np.uint64(BASE)


class NGrams:
    """The n-grams of a batch of texts; no n-gram reaches from one text into the next."""

    def __init__(self, words: Words) -> None:
        """Take the words of the texts."""
        self._words = words
        self._text = np.repeat(np.arange(len(words.counts)), words.counts)
        self._place_ends = np.cumsum(np.concatenate(([0], words.vocabulary.lengths[words.ids])))
        self._joined = _Joined(words, separated=False)
        self._separated = _Joined(words, separated=True)

    def top_characters(self, n: int, texts: Bools, least: Ints) -> Ints:
        """Return the characters of the most frequent n-gram, its words joined by spaces, times its count.

        Of several, the first counts; a text with fewer than n words has 0. Only `texts` are counted; a number up to
        the text's `least` may come out lower.
        """
        counts, bounds = np.where(texts, self._words.counts, 0), self._words.bounds
        best, times = bounds[:-1].copy(), np.ones(len(counts), np.int64)
        places, keys = self._keys(self._separated, n, texts)
        often = _bucket_sizes(keys, 0)
        enough = np.zeros(len(counts), np.bool_)
        enough[self._text[places[often * self._characters(places, n, spaces=n - 1) > least[self._text[places]]]]] = True
        chosen = np.flatnonzero((often > 1) & enough[self._text[places]])
        places, keys = places[chosen], keys[chosen]
        _, first, size = np.unique(keys, return_index=True, return_counts=True)
        places, size = places[first[size > 1]], size[size > 1]
        order = np.lexsort((places, -size, self._text[places]))
        text, leaders = np.unique(self._text[places[order]], return_index=True)
        best[text], times[text] = places[order][leaders], size[order][leaders]
        return np.where(counts >= n, self._characters(best, np.minimum(n, counts), spaces=n - 1) * times, 0)

    def repeated_characters(self, n: int, texts: Bools, least: Ints) -> Ints:
        """Return the characters of the n-grams that repeat an earlier one of the text and do not overlap.

        As in datatrove, n-grams are equal if their words are when written together, and the scan goes on behind a
        repeated n-gram. Only `texts` are counted; a number up to the text's `least` may come out lower.
        """
        places, groups = self._repeated(n, texts, least)
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
        return self._sums(hits, self._characters(hits, n))

    def _repeated(self, n: int, texts: Bools, least: Ints) -> tuple[Ints, Ints]:
        """Return where n-grams are that occur more than once in their text, in order; equal numbers, equal n-grams."""
        places, keys = self._keys(self._joined, n, texts)
        for skipped_bits in (0, 24):
            shared = np.flatnonzero(_bucket_sizes(keys, skipped_bits) > 1)
            places, keys = places[shared], keys[shared]
        covered = self._covered(places[_follows(keys)], n)
        enough = (covered > least)[self._text[places]]
        places, keys = places[enough], keys[enough]
        _, groups, counts = np.unique(keys, return_inverse=True, return_counts=True)
        often = counts[groups] > 1
        return places[often], groups[often]

    def _covered(self, places: Ints, n: int) -> Ints:
        """Return the characters of the words of each text that are in an n-gram from one of the places."""
        begins = places.copy()
        begins[1:] = np.maximum(places[1:], places[:-1] + n)
        return self._sums(places, self._characters(begins, places + n - begins))

    def _keys(self, joined: "_Joined", n: int, texts: Bools) -> tuple[Ints, Hashes]:
        """Return where the n-grams of texts start, and a hash of each with the number of its text."""
        size = max(len(self._text) - n + 1, 0)
        within = self._text[:size] == self._text[len(self._text) - size :]
        places = np.flatnonzero(within & texts[self._text[:size]])
        return places, (joined.hashes(n, places) + self._text[places].astype(np.uint64) * _BASE) * _MIX

    def _characters(self, places: Ints, n: Ints | int, spaces: int = 0) -> Ints:
        """Return the characters of the n words from each place, and of spaces."""
        characters: Ints = self._place_ends[places + n] - self._place_ends[places] + spaces
        return characters

    def _sums(self, places: Ints, values: Ints) -> Ints:
        """Return the sum over the places in each text."""
        return np.bincount(self._text[places], values, len(self._words.counts)).astype(np.int64)


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


def _buckets(keys: Hashes, skipped_bits: int, spare_bits: int) -> tuple[Ints, int]:
    """Return the bucket of each key, by the bits after those that are skipped, and the number of buckets."""
    bits = min(len(keys).bit_length() + spare_bits, 24)
    return (keys << np.uint64(skipped_bits) >> np.uint64(64 - bits)).astype(np.int64), 1 << bits


def _bucket_sizes(keys: Hashes, skipped_bits: int) -> Ints:
    """Return how many keys there are in the bucket of each one, which has all that are equal to it, and few others."""
    buckets, count = _buckets(keys, skipped_bits, 1)
    sizes: Ints = np.bincount(buckets, minlength=count)[buckets]
    return sizes


def _follows(keys: Hashes) -> Bools:
    """Return which keys come after another of their bucket: all that come after an equal one, and few others."""
    buckets, count = _buckets(keys, 40, 3)
    numbers, first = np.arange(len(keys)), np.empty(count, np.int64)
    first[buckets[::-1]] = numbers[::-1]
    follows: Bools = first[buckets] != numbers
    return follows
