"""The number of sentences in a line, as spaCy's sentencizer for English counts them."""

import re
from collections.abc import Sequence

import numpy as np

from stages.curation.words import ENDS_SENTENCE, PUNCTUATION, english

_RUN = re.compile(r"\S+|\s+")
_WHITESPACE = "\n"  # any whitespace that is a word stands for all


def count_sentences(lines: Sequence[str]) -> list[int]:
    """Return the number of sentences in each line, one at least.

    A sentence begins at each word that is no punctuation and follows, but for other punctuation, one that ends a
    sentence.
    """
    words = english().words_of_chunks([_chunks(line) for line in lines])
    kinds = words.vocabulary.kinds[words.ids]
    line = np.repeat(np.arange(len(lines)), words.counts)
    kinds, line = kinds[kinds != PUNCTUATION], line[kinds != PUNCTUATION]
    begins = (kinds[:-1] == ENDS_SENTENCE) & (kinds[1:] != ENDS_SENTENCE) & (line[:-1] == line[1:])
    counts: list[int] = (1 + np.bincount(line[1:][begins], minlength=len(lines))).tolist()
    return counts


def _chunks(line: str) -> list[str]:
    """Split at single spaces; whitespace beyond one that follows a word is a word to spaCy."""
    words = line.split()
    if " ".join(words) == line:
        return words
    chunks: list[str] = []
    for run in _RUN.findall(line):
        if not run.isspace():
            chunks.append(run)
        elif run.removeprefix(" " if chunks else ""):
            chunks.append(_WHITESPACE)
    return chunks
