"""Gopher's quality filter (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1) as datatrove 0.10.1 has it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from stages.curation.step import KEEP, Step, Verdict
from stages.settings import Settings

if TYPE_CHECKING:
    from stages.corpus.documents import Document


class _Counts(NamedTuple):
    """What is counted of the words of a text.

    Attributes:
        words: All of them.
        plain: Those that are not only symbols.
        characters: Of the plain ones.
        alphabetic: Words with a letter.
        stop_words: Distinct stop words.
    """

    words: int
    plain: int
    characters: int
    alphabetic: int
    stop_words: int


class GopherQuality(Settings):
    """Drop texts that are not prose by their number and length of words, symbols, bullets, ellipses and stop words.

    Words are those of spaCy's English; the reasons are datatrove's. A threshold that is null is not asked. Of a text
    without words, fractions of words are 0 (datatrove divides by zero).
    """

    step: Literal["gopher_quality"]
    """Picks this step."""
    min_doc_words: int | None = Field(default=50, gt=0)
    """Words that are not only symbols, at least."""
    max_doc_words: int | None = Field(default=100_000, gt=0)
    """The same, at most."""
    min_avg_word_length: float | None = Field(default=3, gt=0)
    """Mean characters of a word that is not only symbols, at least."""
    max_avg_word_length: float | None = Field(default=10, gt=0)
    """The same, at most."""
    max_symbol_word_ratio: float | None = Field(default=0.1, gt=0)
    """Number signs, and ellipses, by the number of words, at most."""
    max_bullet_lines_ratio: float | None = Field(default=0.9, gt=0, le=1)
    """Fraction of the lines that begin with a bullet or a hyphen, at most."""
    max_ellipsis_lines_ratio: float | None = Field(default=0.3, gt=0, le=1)
    """Fraction of the lines that end with an ellipsis, at most."""
    max_non_alpha_words_ratio: float | None = Field(default=0.8, gt=0, le=1)
    """Fraction of the words that have a letter, at least (the name is datatrove's)."""
    min_stop_words: int | None = Field(default=2, gt=0)
    """Distinct stop words, at least."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """The words that sentences of the language have; upper case is another word."""

    def build(self) -> Step:
        """Return the step."""
        return self._judge

    def _judge(self, documents: Sequence["Document"]) -> list[Verdict]:
        texts = [document.text for document in documents]
        return [self._judge_one(text, counts) for text, counts in zip(texts, self._count(texts), strict=True)]

    def _count(self, texts: list[str]) -> Iterator[_Counts]:
        import numpy as np

        from stages.curation.words import english

        words = english().words(texts)
        known = words.vocabulary
        plain = ~known.symbol
        stop_words = np.zeros(len(texts), np.int64)
        for number in {known.words[word] for word in self.stop_words if word in known.words}:
            places = np.flatnonzero(words.ids == number)
            stop_words[np.unique(np.searchsorted(words.bounds, places, side="right") - 1)] += 1
        sums = [words.sums(values) for values in (plain, known.lengths * plain, known.alphabetic)]
        return map(_Counts._make, np.stack((words.counts, *sums, stop_words), axis=1).tolist())

    def _judge_one(self, text: str, counts: _Counts) -> Verdict:
        for reason, value, least, most in self._measures(text, counts):
            if (least is not None and value < least) or (most is not None and value > most):
                return Verdict(reason, {reason: value})
        return KEEP

    def _measures(self, text: str, counts: _Counts) -> Iterator[tuple[str, float, float | None, float | None]]:
        """Yield each reason with what it measures and the least and the most that it may be."""
        yield "gopher_short_doc", counts.plain, self.min_doc_words, None
        yield "gopher_long_doc", counts.plain, None, self.max_doc_words
        if counts.plain:
            mean = counts.characters / counts.plain
            yield "gopher_below_avg_threshold", mean, self.min_avg_word_length, None
            yield "gopher_above_avg_threshold", mean, None, self.max_avg_word_length
        if counts.words:
            hashes, ellipses = text.count("#"), text.count("...") + text.count("…")
            yield "gopher_too_many_hashes", hashes / counts.words, None, self.max_symbol_word_ratio
            yield "gopher_too_many_ellipsis", ellipses / counts.words, None, self.max_symbol_word_ratio
        if lines := text.splitlines():
            bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
            ends = sum(line.rstrip().endswith(("...", "…")) for line in lines)
            yield "gopher_too_many_bullets", bullets / len(lines), None, self.max_bullet_lines_ratio
            yield "gopher_too_many_end_ellipsis", ends / len(lines), None, self.max_ellipsis_lines_ratio
        alphabetic = counts.alphabetic / max(counts.words, 1)
        yield "gopher_below_alpha_threshold", alphabetic, self.max_non_alpha_words_ratio, None
        yield "gopher_enough_stop_words", counts.stop_words, self.min_stop_words, None
