"""The unigram baseline: tokens drawn independently with the frequencies of the training shards."""

import math
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.files import read_json

with warnings.catch_warnings(action="ignore", category=UserWarning):  # no Transformer Engine: it reads no shards
    from megatron.core.datasets.indexed_dataset import IndexedDataset

BLOCK_TOKENS = 1 << 22


class Unigram:
    """Token probabilities with add-one smoothing: (count + 1) / (tokens + vocabulary size)."""

    def __init__(self, counts: list[int]) -> None:
        total = sum(counts) + len(counts)
        self._nats = [math.log(total) - math.log(count + 1) for count in counts]

    def nats(self, tokens: list[int]) -> float:
        """Return -log P(tokens) in nats; the exact sum, so that no order or vector unit shows in it."""
        return math.fsum(self._nats[token] for token in tokens)


def fit(shards: Path) -> Unigram:
    """Return the unigram model of the training split of `out/shards`, all domains together."""
    index = read_json(shards / "index.json")
    counts = np.zeros(index["tokenizer"]["vocab_size"], dtype=np.int64)
    for domain in sorted(index["splits"]["train"]):
        counts += _counts(shards / "tokens" / "train" / domain, len(counts))
    return Unigram(counts.tolist())


def _counts(prefix: Path, vocab_size: int) -> NDArray[np.int64]:
    """Count the tokens of one shard, block by block, so that memory does not grow with it."""
    dtype = IndexedDataset(str(prefix)).index.dtype
    tokens = np.memmap(prefix.with_name(f"{prefix.name}.bin"), dtype=dtype, mode="r")
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(tokens), BLOCK_TOKENS):
        counts += np.bincount(tokens[start : start + BLOCK_TOKENS], minlength=vocab_size)
    return counts
