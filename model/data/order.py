"""The order of the training data: which tokens each sample of a run is.

A pure function of the shards, the settings and the sample's place in its phase. Any sample is found without those
before it, in O(log documents).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.blend import Blend
from model.data.index_cache import IndexCache
from model.data.shard import TokenShard
from model.data.stream import Stream
from model.job import Job

Integers = NDArray[np.int64]


class Pieces(NamedTuple):
    """Pieces of documents that make up samples, `[n]` each, in the order of the samples and of the tokens in them."""

    sample: Integers
    """Which of the samples that were asked for."""
    domain: Integers
    """Index in `Order.domains`."""
    document: Integers
    """Index of the document in its domain's training shard."""
    start: Integers
    """Its first token in the piece."""
    end: Integers
    """The token after its last."""


class Order:
    """All samples of a run.

    A phase mixes its domains by a `Blend`. Where an earlier phase had the same domain and sequence length, it goes on
    in the domain's `Stream` where that phase was planned to end, so that no document comes again before all came; at
    another sequence length documents are shuffled anew.

    Args:
        job: Data, phases and seed.
        cache: For the index arrays.

    Raises:
        UserError: A shard is missing or damaged.
    """

    def __init__(self, job: Job, cache: IndexCache) -> None:
        self.domains = job.pretrain.domains
        """Names of all domains, sorted."""
        train = Path(job.shards.tokens) / "train"
        self.shards = [TokenShard(train / domain) for domain in self.domains]
        """The training shard of each domain."""
        self._seq_lengths = [phase.seq_length for phase in job.plan.phases]
        self._blends = [Blend(phase.blend, phase.samples, cache) for phase in job.plan.phases]
        self._streams: dict[tuple[str, int], Stream] = {}
        self._firsts: list[dict[str, int]] = []
        self._plan_streams(job, cache)

    def _plan_streams(self, job: Job, cache: IndexCache) -> None:
        """Set the streams, and for each phase where in them it begins."""
        planned: dict[tuple[str, int], int] = {}
        for seq_length, blend in zip(self._seq_lengths, self._blends, strict=True):
            self._firsts.append({domain: planned.get((domain, seq_length), 0) for domain in blend.domains})
            for domain, count in zip(blend.domains, blend.counts, strict=True):
                key = (domain, seq_length)
                planned[key] = planned.get(key, 0) + count
        for domain, seq_length in planned:
            lengths = self.shards[self.domains.index(domain)].lengths
            stream = Stream(lengths, domain, seq_length, job.pretrain.data_seed, job.shards.digest, cache)
            self._streams[domain, seq_length] = stream

    def inputs_and_labels(self, phase: int, first: int, count: int) -> Pieces:
        """Return the s + 1 tokens of each of `count` samples of a phase, which counts its samples from 0."""
        return self._pieces(phase, first, count, 0, self._seq_lengths[phase] + 1)

    def labels(self, phase: int, first: int, count: int) -> Pieces:
        """Return the s tokens that each of `count` samples of a phase predicts."""
        return self._pieces(phase, first, count, 1, self._seq_lengths[phase])

    def tokens(self, pieces: Pieces) -> Integers:
        """Return the tokens of pieces, one after another, `[n]`."""
        tokens = np.empty((pieces.end - pieces.start).sum(), np.int64)
        at = 0
        columns = (pieces.domain, pieces.document, pieces.start, pieces.end)
        for domain, document, start, end in zip(*(column.tolist() for column in columns), strict=True):
            tokens[at : at + end - start] = self.shards[domain].tokens(document, start, end)
            at += end - start
        return tokens

    def _pieces(self, phase: int, first: int, count: int, skipped_tokens: int, tokens: int) -> Pieces:
        seq_length, blend = self._seq_lengths[phase], self._blends[phase]
        kinds, numbers = blend.at(first, count)
        found = []
        for kind in np.unique(kinds).tolist():
            name = blend.domains[kind]
            stream = self._streams[name, seq_length]
            samples = np.flatnonzero(kinds == kind)
            windows = stream.windows(numbers[samples] + self._firsts[phase][name])
            spans = stream.spans(windows * seq_length + skipped_tokens, tokens)
            domain = np.full(len(spans.window), self.domains.index(name))
            found.append(Pieces(samples[spans.window], domain, spans.document, spans.start, spans.end))
        pieces = Pieces(*map(np.concatenate, zip(*found, strict=True)))
        order = np.argsort(pieces.sample, kind="stable")
        return Pieces(*(column[order] for column in pieces))
