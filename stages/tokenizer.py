"""Train the tokenizer, or take an existing one: `python -m stages.tokenizer`.

Byte-level BPE with exactly Llama 3's pre-tokenizer, `llama-bpe` in llama.cpp. The special tokens are
`<|endoftext|>` (id 0: begin, end, and end of document) and `<|padding|>` (id 1).

Reads out/curate/documents/{train,validation}/. Writes to out/tokenizer/:

- tokenizer/: the tokenizer as a Hugging Face fast tokenizer
- metrics.json: its size, and bytes per token on the validation split by domain

The round trip over the whole validation split is byte-exact, or the stage fails.
"""

import os

from pydantic import Field, model_validator

from stages.corpus.sources import Sha256
from stages.files import OUT, output, write_json
from stages.runner import run
from stages.settings import Settings, load


class TokenizerSettings(Settings):
    """Section `tokenizer` of params.yaml."""

    vocab_size: int = Field(ge=258)
    """Number of tokens, special ones included: 256 bytes, 2 special tokens and the merges."""
    train_fraction: float = Field(gt=0, le=1)
    """Fraction of the train split's documents to train on, chosen by the digests of their texts."""
    path: str | None
    """An existing tokenizer.json to take instead of training one."""
    sha256: Sha256 | None
    """Digest of the file at `path`; required with it, so that another file is another parameter."""
    workers: int = Field(gt=0)
    """Threads. The bytes of the result do not depend on them."""

    @model_validator(mode="after")
    def _pinned(self) -> "TokenizerSettings":
        if (self.path is None) != (self.sha256 is None):
            raise ValueError("path and sha256 are given together, or both are null")
        return self


def main() -> None:
    """Make the tokenizer and check it."""
    settings = load("tokenizer", TokenizerSettings)
    os.environ["RAYON_NUM_THREADS"] = str(settings.workers)
    from stages.corpus.documents import shard_paths
    from stages.corpus.vocabulary import make, measure, save

    curated = OUT / "curate" / "documents"
    train, validation = (shard_paths(curated / split, "curate") for split in ("train", "validation"))
    with output("tokenizer") as folder:
        tokenizer = make(settings.path, settings.sha256, settings.vocab_size, settings.train_fraction, train)
        save(tokenizer, folder / "tokenizer")
        metrics = measure(folder / "tokenizer" / "tokenizer.json", validation)
        write_json(folder / "metrics.json", metrics)
    print(f"tokenizer: {metrics['vocab_size']:,} tokens, {metrics['bytes_per_token']['all']:.2f} bytes a token")


if __name__ == "__main__":
    run(__file__, main)
