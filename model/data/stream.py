"""An endless stream of shuffled documents, cut into shuffled windows. Imports no torch.

Megatron-Core's GPTDataset is not used: its order depends on how many epochs the whole run needs, so a longer run, or
a branch of one, would not see the same data from the start.
"""

import functools
import hashlib
import json
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.index_cache import Array, Arrays, IndexCache, Spec, blocks

Integers = NDArray[np.int64]


class Spans(NamedTuple):
    """Pieces of documents, `[n]` each, in the order of the windows they are from and of the tokens in those."""

    window: Integers
    """Which of the windows that were asked for."""
    document: Integers
    """Index of the document in its shard."""
    start: Integers
    """Its first token in the piece."""
    end: Integers
    """The token after its last."""


class Stream:
    """The training windows of one domain at one sequence length s.

    An epoch is every document of the shard once, in an order drawn for that epoch; the stream is epoch 0, epoch 1 and
    so on. Window j is its tokens j * s to (j + 1) * s inclusive: the last is a label alone, and the first input of the
    window after. So no token is lost between documents or epochs, and each but the stream's first is a label
    exactly once an epoch. The windows that start in one epoch are shuffled among themselves.

    Args:
        lengths: Tokens of each document.
        domain: Name of the domain.
        seq_length: Inputs of a window, s.
        data_seed: Seed of all orders.
        digest: What identifies the shard's content.
        cache: For the index arrays.
    """

    def __init__(
        self, lengths: NDArray[np.int32], domain: str, seq_length: int, data_seed: int, digest: str, cache: IndexCache
    ) -> None:
        self.lengths = lengths
        self.seq_length = seq_length
        self.tokens = int(lengths.sum(dtype=np.int64))
        """Tokens of an epoch."""
        self._key = (data_seed, domain, seq_length)
        self._digest = digest
        self._cache = cache
        # Two epochs of documents meet in one window, and threads ahead may be an epoch further.
        self._documents = functools.lru_cache(maxsize=4)(self._build_documents)
        self._windows = functools.lru_cache(maxsize=4)(self._build_windows)

    def windows(self, samples: Integers) -> Integers:
        """Return the window that each sample of the stream is, `[n]`; sample k is drawn k-th."""
        epochs = samples * self.seq_length // self.tokens
        windows = np.empty_like(samples)
        for epoch in np.unique(epochs).tolist():
            drawn = epochs == epoch
            first = self._first_window(epoch)
            windows[drawn] = self._windows(epoch)[samples[drawn] - first].astype(np.int64) + first
        return windows

    def spans(self, first: Integers, count: int) -> Spans:
        """Return the documents that hold `count` tokens of the stream from each of the tokens `first`, `[n]`."""
        pieces = [self._spans_of_epoch(epoch, first, first + count) for epoch in self._epochs(first, count)]
        if len(pieces) == 1:
            return pieces[0]
        window, document, start, end = map(np.concatenate, zip(*pieces, strict=True))
        order = np.argsort(window, kind="stable")
        return Spans(window[order], document[order], start[order], end[order])

    def _epochs(self, first: Integers, count: int) -> list[int]:
        """Return the epochs that hold any of `count` tokens from each of the tokens `first`, ascending."""
        begin, end = first // self.tokens, (first + count - 1) // self.tokens
        epochs = begin[:, None] + np.arange((end - begin).max() + 1)
        touched: list[int] = np.unique(epochs[epochs <= end[:, None]]).tolist()
        return touched

    def _spans_of_epoch(self, epoch: int, first: Integers, end: Integers) -> Spans:
        """Return the part of the tokens `first` to `end` that is in an epoch."""
        documents, ends = self._documents(epoch)
        first = np.maximum(first - epoch * self.tokens, 0)
        end = np.minimum(end - epoch * self.tokens, self.tokens)
        window = np.flatnonzero(first < end)
        first, end = first[window], end[window]
        place = np.searchsorted(ends, first, side="right")
        counts = np.searchsorted(ends, end, side="left") + 1 - place
        places = np.arange(counts.sum()) + np.repeat(place - np.cumsum(counts) + counts, counts)
        document = documents[places].astype(np.int64)
        length = self.lengths[document]
        begin = ends[places] - length
        return Spans(
            np.repeat(window, counts),
            document,
            np.maximum(np.repeat(first, counts) - begin, 0),
            np.minimum(np.repeat(end, counts) - begin, length),
        )

    def _first_window(self, epoch: int) -> int:
        """Return the first window that starts in an epoch."""
        return -(-epoch * self.tokens // self.seq_length)

    def _build_documents(self, epoch: int) -> tuple[Array, Array]:
        """Return the documents of an epoch in their order, and where in the epoch each ends."""
        count = len(self.lengths)
        specs = {"documents": Spec(count, np.min_scalar_type(count)), "ends": Spec(count, np.int64)}
        seed = (*self._key, epoch, "documents")

        def fill(arrays: Arrays) -> None:
            documents, ends = arrays["documents"], arrays["ends"]
            _fill_shuffled(documents, seed)
            total = 0
            for block in blocks(count):
                ends[block] = total + np.cumsum(self.lengths[documents[block]], dtype=np.int64)
                total = int(ends[block][-1])

        arrays = self._cache.arrays((*seed, self._digest), specs, fill)
        return arrays["documents"], arrays["ends"]

    def _build_windows(self, epoch: int) -> Array:
        """Return the windows of an epoch in their order, counted from its first."""
        count = self._first_window(epoch + 1) - self._first_window(epoch)
        seed = (*self._key, epoch, "windows")
        specs = {"windows": Spec(count, np.min_scalar_type(count))}
        key = (*seed, self._digest)
        return self._cache.arrays(key, specs, lambda arrays: _fill_shuffled(arrays["windows"], seed))["windows"]


def _fill_shuffled(array: Array, seed: tuple[Any, ...]) -> None:
    """Write the numbers below the array's length into it, in the order that belongs to a seed."""
    for block in blocks(len(array)):
        array[block] = np.arange(block.start, block.stop)
    key = int.from_bytes(hashlib.sha256(json.dumps(seed).encode()).digest()[:16], "little")
    np.random.Generator(np.random.Philox(key=key)).shuffle(array)
