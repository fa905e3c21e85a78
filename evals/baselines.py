"""The baselines on the same documents: compressors, and a unigram model over the model's own tokens."""

from dataclasses import dataclass
from pathlib import Path

from evals.compression import compressed_sizes
from evals.documents import Document
from evals.recompute import Sample
from evals.tokenizer import load_tokenizer, tokenize
from evals.unigram import Unigram


@dataclass(frozen=True)
class Baselines:
    """What a document costs without the model."""

    unigram: Unigram
    model: Path
    threads: int

    def of(self, documents: list[Document]) -> list[Sample]:
        """Return for each document its tokens, the unigram model's nats and its size in each compressor's format."""
        sizes = compressed_sizes([document.data for document in documents], self.threads)
        tokens = tokenize(load_tokenizer(self.model), [document.text for document in documents])
        return [
            {"tokens": len(some), "unigram_nats": self.unigram.nats(some), **size}
            for some, size in zip(tokens, sizes, strict=True)
        ]
