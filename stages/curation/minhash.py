"""MinHash signatures and their bands: texts that share many word n-grams get a key in common.

MinHash (Broder 1997): of two texts, the smallest hash of their n-grams is the same with a probability of s, the
Jaccard similarity of the sets. With locality-sensitive hashing (Leskovec, Rajaraman, Ullman, Mining of Massive
Datasets, section 3.4), `bands` keys of `rows` such hashes each, two texts have a key in common with a probability of
1 - (1 - s^rows)^bands: 0.92 at s = 0.8 and 0.10 at s = 0.5 for the 14 bands of 8 that FineWeb takes.

The permutations are multiplications of a well-mixed 64-bit hash by random odd numbers, which are bijections.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.settings import Settings

if TYPE_CHECKING:
    from stages.curation.shingles import Hashes

NO_WORDS = (1 << 64) - 1
"""Every hash of a text without words."""
_BLOCK = 1024  # n-grams that are permuted at once; the products fit the cache of a core


class MinHash(Settings):
    """How near-duplicates are found."""

    ngram: int = Field(gt=0)
    """Words a shingle."""
    bands: int = Field(gt=0)
    """Keys of a text; two texts are compared if they have one in common."""
    rows: int = Field(gt=0)
    """Hashes in a key."""
    min_agreement: float = Field(ge=0, le=1)
    """Texts with a key in common are joined if this fraction of all their bands x rows hashes agrees, which is an
    estimate of their Jaccard similarity; 0 joins them all."""
    seed: int = Field(ge=0)
    """Another seed, other hashes."""

    def permutations(self) -> "Hashes":
        """Return the multipliers, [bands * rows]."""
        import numpy as np

        from stages.curation.shingles import raw

        return raw(self.seed, self.bands * self.rows) | np.uint64(1)


class Deduplication(Settings):
    """Which of equal and nearly equal texts survives."""

    near: MinHash | None
    """How nearly equal texts are found, across all sources; null leaves them."""
    survivor: Literal["first", "longest"]
    """The first of a cluster in the order of sources and origins, or its longest text, of which the first."""


def signature(text: str, ngram: int, permutations: "Hashes") -> "Hashes":
    """Return the smallest hash of the text's n-grams under each permutation, [bands * rows]; or `NO_WORDS`.

    Memory is a few times the text's own, and a constant.
    """
    import numpy as np

    from stages.curation.shingles import shingles

    runs = shingles(text, ngram)
    smallest = np.full(permutations.size, NO_WORDS, np.uint64)
    for start in range(0, runs.size, _BLOCK):
        np.minimum(smallest, (permutations[:, None] * runs[start : start + _BLOCK]).min(axis=1), out=smallest)
    return smallest


def band_keys(signatures: "Hashes", rows: int) -> "Hashes":
    """Return the keys of signatures: [d, bands * rows] to [bands, d]."""
    import numpy as np

    from stages.curation.shingles import mixed

    bands = signatures.reshape(len(signatures), -1, rows)
    keys = np.zeros(bands.shape[:2], np.uint64)
    for row in range(rows):
        keys = mixed(keys ^ bands[:, :, row])
    return np.ascontiguousarray(keys.T)


def recall(similarity: float, bands: int, rows: int) -> float:
    """Return the probability that two texts of a Jaccard similarity have a key in common."""
    return float(1 - (1 - similarity**rows) ** bands)
