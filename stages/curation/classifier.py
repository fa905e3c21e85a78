"""A linear classifier of texts over hashed words and pairs of words, in the manner of fastText.

As in fastText (Joulin et al. 2017, arXiv:1607.01759) a text is the bag of its words and bigrams, each hashed to a
bucket. With two classes, fastText's hidden layer can only say what a weight for each bucket says, so there is none, and
the weights are those of a logistic regression: its optimum does not depend on an order of examples or on a seed.
Words and their hashes are those that the filters of a chain have already (`stages.curation.words`).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from stages.curation.words import Ints, Words, english
from stages.files import write_json

_GRID = np.float32(1 << 20)
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)
_SPREAD = np.uint64(0xFF51AFD7ED558CCD)


class Example(NamedTuple):
    """A labelled text.

    Attributes:
        text: The text.
        good: It is of the class whose probability is the score.
    """

    text: str
    good: bool


class Quality(NamedTuple):
    """What the classifier says of examples that it was not trained on.

    Attributes:
        examples: How many they are.
        good: How many of them are good.
        accuracy: Fraction of them whose score is on the right side of one half.
        auc: Probability that a good one scores higher than one that is not.
    """

    examples: int
    good: int
    accuracy: float
    auc: float


class Classifier(NamedTuple):
    """Weights of a logistic regression.

    Attributes:
        weights: One for each bucket [2^bits], float32; multiples of 2^-20, so that sums are exact and a score does
            not depend on the texts before it.
        bias: Added to the weighted sum.
    """

    weights: NDArray[np.float32]
    bias: float

    def scores(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the probability that each text is good."""
        words = english().words(texts)
        buckets, bounds = _features(words, (len(self.weights) - 1).bit_length())
        sums = np.concatenate((np.zeros(1), np.cumsum(self.weights[buckets], dtype=np.float64)))
        logits = (sums[bounds[1:]] - sums[bounds[:-1]]) * _scale(np.diff(bounds)) + self.bias
        probabilities: NDArray[np.float64] = expit(logits)
        return probabilities

    def write(self, folder: Path, quality: Quality) -> None:
        """Write `weights.npy` and `classifier.json`, equal bytes for equal classifiers."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "weights.npy", self.weights)
        write_json(folder / "classifier.json", {"bias": self.bias, "held_out": quality._asdict()})


def train(examples: Sequence[Example], *, bits: int, regularization: float) -> Classifier:
    """Return the classifier that explains the examples.

    Args:
        examples: Some of each class.
        bits: There are 2^bits buckets.
        regularization: Weight of the squared weights by the mean loss; larger, and rare words count less.
    """
    buckets, bounds = _features(english().words([example.text for example in examples]), bits)
    values = np.repeat(_scale(np.diff(bounds)), np.diff(bounds))
    matrix = csr_array((values, buckets.astype(np.int32), bounds.astype(np.int32)), shape=(len(examples), 1 << bits))
    matrix.sum_duplicates()
    labels = np.array([example.good for example in examples])
    # liblinear's own loops: neither threads nor the BLAS of a machine change the result
    fitted = LogisticRegression(C=1 / (regularization * len(examples)), solver="liblinear", tol=1e-6)
    fitted.fit(matrix, labels)
    return Classifier(np.rint(fitted.coef_[0] * _GRID).astype(np.float32) / _GRID, float(fitted.intercept_[0]))


def split(examples: Sequence[Example], held_out: float) -> tuple[list[Example], list[Example]]:
    """Return those to train on and those to measure by: which, is told by a text's digest."""
    digests = [hashlib.sha256(example.text.encode(errors="surrogatepass")).digest() for example in examples]
    held = [int.from_bytes(digest[:8], "big") < held_out * 2**64 for digest in digests]
    taken = [example for example, out in zip(examples, held, strict=True) if not out]
    return taken, [example for example, out in zip(examples, held, strict=True) if out]


def measure(classifier: Classifier, examples: Sequence[Example]) -> Quality:
    """Return what the classifier says of examples, some of each class."""
    scores = classifier.scores([example.text for example in examples])
    good = np.array([example.good for example in examples])
    auc = roc_auc_score(good, scores)
    return Quality(len(examples), int(good.sum()), float(((scores > 0.5) == good).mean()), float(auc))


def _features(words: Words, bits: int) -> tuple[Ints, Ints]:
    """Return the buckets of each text's words and, behind them, its bigrams; and where each text's begin and end."""
    hashes = words.vocabulary.hashes[words.ids] * _SPREAD
    pairs = (hashes[:-1] * _PAIR + hashes[1:]) * _SPREAD
    text = np.repeat(np.arange(len(words.counts)), words.counts)
    inside = text[:-1] == text[1:]
    order = np.argsort(np.concatenate((text, text[1:][inside])), kind="stable")
    buckets = (np.concatenate((hashes, pairs[inside])) >> np.uint64(64 - bits)).astype(np.int64)[order]
    return buckets, np.concatenate(([0], np.cumsum(words.counts + np.maximum(words.counts - 1, 0))))


def _scale(counts: Ints) -> NDArray[np.float64]:
    """Return what a text's counts are multiplied by: a long text says no more than a short one."""
    return 1 / np.sqrt(np.maximum(counts, 1))
