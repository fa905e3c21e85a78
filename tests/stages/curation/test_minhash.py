import json
from collections import defaultdict
from functools import cache
from math import sqrt
from typing import NamedTuple

import numpy as np
import pytest

from stages.curation.minhash import NO_WORDS, MinHash, band_keys, recall, signature
from stages.curation.shingles import Hashes, shingles
from tests.shared import shared

SEEDS = range(12)
SHAPES = ((14, 8), (20, 5), (5, 20))


class Pair(NamedTuple):
    """Two real texts: whether they are unrelated, their exact similarity, and signatures by seed, [seeds, 112]."""

    unrelated: bool
    similarity: float
    one: Hashes
    other: Hashes


@cache
def pairs() -> list[Pair]:
    permutations = np.concatenate([settings(14, 8, seed).permutations() for seed in SEEDS])
    found = []
    with (shared("curation") / "neardup" / "peps_pairs.jsonl").open() as file:
        for row in map(json.loads, file):
            one, other = (signature(row[side], 5, permutations).reshape(-1, 112) for side in "ab")
            found.append(Pair(row["kind"] == "different", jaccard(row["a"], row["b"]), one, other))
    return found


def settings(bands: int, rows: int, seed: int = 0) -> MinHash:
    return MinHash(ngram=5, bands=bands, rows=rows, min_agreement=0, seed=seed)


def jaccard(one: str, other: str) -> float:
    sets = [set(shingles(text, 5).tolist()) for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def joined(pair: Pair, bands: int, rows: int) -> list[bool]:
    """Return under which seeds two texts have a key in common."""
    one, other = (band_keys(side[:, : bands * rows], rows) for side in (pair.one, pair.other))
    return list((one == other).any(axis=0))


@pytest.mark.parametrize(("bands", "rows"), SHAPES)
def test_recall_in_each_band_of_similarity_is_that_of_theory(bands: int, rows: int) -> None:
    found: dict[int, list[tuple[bool, float]]] = defaultdict(list)
    for pair in pairs():
        chance = recall(pair.similarity, bands, rows)
        found[int(pair.similarity * 10)] += [(hit, chance) for hit in joined(pair, bands, rows)]
    for trials in found.values():
        hits, expected = sum(hit for hit, _ in trials), sum(chance for _, chance in trials)
        deviation = sqrt(sum(chance * (1 - chance) for _, chance in trials))
        assert abs(hits - expected) <= 4 * deviation + 1e-3


def test_the_agreement_of_signatures_estimates_the_similarity() -> None:
    for _, similarity, one, other in pairs():
        deviation = sqrt(similarity * (1 - similarity) / one.size)
        assert (one == other).mean() == pytest.approx(similarity, abs=4.5 * deviation + 1e-9)


def test_unrelated_texts_never_have_a_key_in_common() -> None:
    unrelated = [pair for pair in pairs() if pair.unrelated]
    assert len(unrelated) == 40
    assert not any(hit for pair in unrelated for hit in joined(pair, 14, 8))


def test_equal_texts_have_all_keys_in_common_and_a_text_without_words_says_so() -> None:
    permutations = settings(14, 8).permutations()
    one, other, none = (signature(text, 5, permutations) for text in ("Two words", "two: WORDS!", "... --- ..."))
    assert one.tolist() == other.tolist()
    assert set(none.tolist()) == {NO_WORDS}


def test_blocks_of_shingles_do_not_show_in_a_signature() -> None:
    text = " ".join(map(str, range(5000)))
    permutations = settings(2, 2).permutations()
    smallest = [(shingles(text, 5) * factor).min() for factor in permutations]
    assert signature(text, 5, permutations).tolist() == smallest


def test_recall_is_known_at_fineweb_s_shape() -> None:
    assert recall(0.8, 14, 8) == pytest.approx(0.924, abs=5e-4)
    assert (recall(0, 14, 8), recall(1, 14, 8)) == (0, 1)
