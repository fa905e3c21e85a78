"""Makes, saves and measures the tokenizer of a release."""

from collections import Counter
from pathlib import Path
from typing import TypedDict

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from stages.corpus import bpe
from stages.corpus.documents import batches, read, size
from stages.errors import UserError
from stages.files import sha256_file


class Measures(TypedDict):
    """Size of the vocabulary, and UTF-8 bytes a token by domain and for `all`."""

    vocab_size: int
    bytes_per_token: dict[str, float]


def make(path: str | None, sha256: str | None, vocab_size: int, train_fraction: float, train: list[Path]) -> Tokenizer:
    """Return the tokenizer at `path`, or one trained on a fraction of the shards.

    Raises:
        UserError: The file at `path` is not the pinned one, or has another number of tokens.
    """
    if path is None:
        chosen = (document.text for document in read(train) if int(document.sha256[:16], 16) / 2**64 < train_fraction)
        return bpe.train(chosen, vocab_size)
    tokenizer = bpe.load(Path(path))
    actual = sha256_file(Path(path))
    if actual != sha256:
        raise UserError(
            f"tokenizer.sha256 is '{sha256}' but '{path}' has '{actual}'. Bring the pinned file back, or pin this one."
        )
    if tokenizer.get_vocab_size() != vocab_size:
        raise UserError(
            f"tokenizer.vocab_size = {vocab_size} but '{path}' has {tokenizer.get_vocab_size()} tokens. Set it to that."
        )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the tokenizer as a Hugging Face fast tokenizer that `AutoTokenizer` loads."""
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # transformers leaves it unannotated
        tokenizer_object=tokenizer,
        bos_token=bpe.END_OF_DOCUMENT,
        eos_token=bpe.END_OF_DOCUMENT,
        pad_token=bpe.PADDING,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],  # what a decoder's forward and generate take
    )
    fast.save_pretrained(folder)


def measure(path: Path, validation: list[Path]) -> Measures:
    """Check the round trip of every document and return bytes per token.

    Raises:
        UserError: A document does not come back byte for byte.
    """
    tokenizer = bpe.load(path)
    length: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for batch in batches(read(validation)):
        for document, ids in zip(batch, bpe.encode(tokenizer, batch), strict=True):
            bpe.check_round_trip(tokenizer, document, ids)
            for group in (document.domain, "all"):
                length[group] += size(document)
                tokens[group] += len(ids)
    ratios = {group: length[group] / tokens[group] for group in sorted(length)}
    return Measures(vocab_size=tokenizer.get_vocab_size(), bytes_per_token=ratios)
