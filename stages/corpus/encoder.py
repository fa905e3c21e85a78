"""Texts to token ids: those of the tokenizer, ten times as fast where it can be proved that they are the same.

tiktoken (MIT, OpenAI) does byte-level BPE from the ranks of tokens alone, without offsets and normalisation. Its
ids are the tokenizer's if

- the file is nothing but byte-level BPE behind Llama 3's pattern, and marks no token in a text;
- each token of two bytes or more is made by one merge, after its halves, and ids grow in the order of merges;
- the merges make each token of a text that is that token.

tiktoken merges two neighbours that spell a token, whichever they are; the tokenizer only the halves of the token's
merge. They are the same: no merge has crossed the borders of what the neighbours spell, so all went there as it goes
in a text of its own, and there the last two are the halves. Both take the lowest rank first, leftmost first.

A test holds the two regex engines' character classes to each other over all of Unicode. For any other tokenizer.json
the tokenizer itself is asked.
"""

import json
import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import Tokenizer, pre_tokenizers

from stages.corpus import bpe
from stages.files import sha256_file

BLANKS = 250_000
"""Blanks in a row, not ended by a line, that tiktoken is trusted with: its regex engine gives up at a million."""

_MANY_BLANKS = re.compile(rf"\s{{{BLANKS}}}")
_PLAIN_MODEL = {"dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": False}


class Encoder:
    """Encodes texts, without special tokens and on one thread."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Find out whether tiktoken gives the tokenizer's ids: a second for 100,000 tokens."""
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.get_vocab_size()
        ranks = provable_ranks(tokenizer)
        self._fast: tiktoken.Encoding | None = None
        if ranks:
            self._fast = tiktoken.Encoding(
                "tokenizer.json", pat_str=bpe.LLAMA_3_PATTERN, mergeable_ranks=ranks, special_tokens={}
            )

    @property
    def end_of_document(self) -> int:
        """The id of the end of a document."""
        found = self._tokenizer.token_to_id(bpe.END_OF_DOCUMENT)
        assert found is not None
        return found

    @property
    def fast(self) -> bool:
        """Whether tiktoken does the work."""
        return self._fast is not None

    def __call__(self, text: str) -> NDArray[np.uint32]:
        """Return the ids of a text."""
        if self._fast is None or (len(text) >= BLANKS and _MANY_BLANKS.search(text)):
            return np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.uint32)
        return np.array(self._fast.encode_ordinary(text), np.uint32)  # `encode_to_numpy` takes half as long again


@lru_cache(1)
def load(path: Path, sha256: str) -> Encoder:
    """Return the encoder of a tokenizer.json, made once for each digest in a process."""
    assert sha256_file(path) == sha256
    return Encoder(bpe.load(path))


def provable_ranks(tokenizer: Tokenizer) -> dict[bytes, int] | None:
    """Return the ids of tokens by their bytes, if they are all that it takes to encode; else None."""
    described = json.loads(tokenizer.to_str())
    if not (_is_plain(described) and tokenizer.encode_special_tokens):
        return None
    characters = _bytes_of_characters()
    vocabulary, made = described["model"]["vocab"], ["".join(halves) for halves in described["model"]["merges"]]
    others = vocabulary.keys() - characters.keys() - set(made)
    if not (characters.keys() <= vocabulary.keys() and _are_unreachable(others, tokenizer)):
        return None
    if not (_are_in_order(described["model"]) and _are_made(made, described)):
        return None
    return {bytes(map(characters.__getitem__, token)): vocabulary[token] for token in [*characters, *made]}


def _is_plain(described: dict[str, Any]) -> bool:
    """Say whether the file is byte-level BPE behind Llama 3's pattern, and nothing else."""
    model = described["model"]
    same = json.loads(bpe.empty().to_str())["pre_tokenizer"]
    return (
        model["type"] == "BPE"
        and all(model[name] == value for name, value in _PLAIN_MODEL.items())
        and described["pre_tokenizer"] == same
        and all(described[name] is None for name in ("normalizer", "truncation", "padding"))
        and all(token["special"] for token in described["added_tokens"])
    )


def _bytes_of_characters() -> dict[str, int]:
    """Return the byte that each character of byte-level BPE stands for: its own, or else in order those left over."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    rest = sorted(set(range(256)) - set(own.values()))
    return {**own, **dict(zip(alphabet[len(own) :], rest, strict=True))}


def _are_unreachable(tokens: set[str], tokenizer: Tokenizer) -> bool:
    """Say whether no word of a text can be one of these tokens, for the pattern cuts each of them."""
    return all(len(tokenizer.pre_tokenizer.pre_tokenize_str(token)) > 1 for token in tokens)


def _are_in_order(model: dict[str, Any]) -> bool:
    """Say whether ids grow from merge to merge, and each merge's halves are made before it."""
    order = {"".join(halves): number for number, halves in enumerate(model["merges"])}
    ids = [model["vocab"][token] for token in order]
    return (
        len(order) == len(model["merges"])
        and all(earlier < later for earlier, later in pairwise(ids))
        and all(order.get(half, -1) < number for number, halves in enumerate(model["merges"]) for half in halves)
    )


def _are_made(tokens: list[str], described: dict[str, Any]) -> bool:
    """Say whether the merges, applied to each token as a text of its own, end with that token."""
    model = {**described["model"], "ignore_merges": False}
    merges = Tokenizer.from_str(json.dumps({**described, "model": model, "pre_tokenizer": None, "added_tokens": []}))
    return all(merges.encode(token, add_special_tokens=False).ids == [model["vocab"][token]] for token in tokens)
