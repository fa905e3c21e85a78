"""Gopher's repetition filter (Rae et al. 2021, arXiv:2112.11446, table A1) as datatrove 0.10.1 has it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from stages.curation.step import KEEP, Step, Verdict
from stages.settings import Settings

if TYPE_CHECKING:
    from stages.corpus.documents import Document

Fraction = Annotated[float, Field(gt=0, le=1)]
N = Annotated[int, Field(gt=0)]


class GopherRepetition(Settings):
    """Drop texts in which too much is repeated: paragraphs, lines, the top n-gram, all longer n-grams.

    Fractions of characters are of the whole text's, though only words and lines are counted. Words are those of
    spaCy's English. A larger fraction drops the text; the reasons are datatrove's.
    """

    step: Literal["gopher_repetition"]
    """Picks this step."""
    dup_para_frac: Fraction | None = 0.3
    """Fraction of the paragraphs that repeat an earlier one; null does not ask."""
    dup_para_char_frac: Fraction | None = 0.2
    """The same, of the characters."""
    dup_line_frac: Fraction | None = 0.3
    """Fraction of the lines that repeat an earlier one; null does not ask."""
    dup_line_char_frac: Fraction | None = 0.2
    """The same, of the characters."""
    top_n_grams: tuple[tuple[N, Fraction], ...] = ((2, 0.2), (3, 0.18), (4, 0.16))
    """n, and the fraction of the characters that are in the most frequent n-gram."""
    dup_n_grams: tuple[tuple[N, Fraction], ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.1))
    """n, and the fraction of the characters that are in n-grams that repeat an earlier one."""

    def build(self) -> Step:
        """Return the step."""
        return self._judge

    def _judge(self, documents: Sequence["Document"]) -> list[Verdict]:
        verdicts = [self._judge_lines(document.text) for document in documents]
        left = [index for index, verdict in enumerate(verdicts) if verdict is KEEP]
        found = self._judge_n_grams([documents[index].text for index in left])
        for index, verdict in zip(left, found, strict=True):
            verdicts[index] = verdict
        return verdicts

    def _judge_lines(self, text: str) -> Verdict:
        if not text:
            return Verdict("empty")
        for reason, fraction in self._line_fractions(text):
            threshold: float | None = getattr(self, reason)
            if threshold is not None and fraction > threshold:
                return Verdict(reason, {reason: fraction})
        return KEEP

    def _line_fractions(self, text: str) -> Iterator[tuple[str, float]]:
        for part, items in (("para", _paragraphs(text.strip())), ("line", _lines(text))):
            distinct = set(items)
            yield f"dup_{part}_frac", (len(items) - len(distinct)) / len(items)
            yield f"dup_{part}_char_frac", (sum(map(len, items)) - sum(map(len, distinct))) / len(text)

    def _judge_n_grams(self, texts: list[str]) -> list[Verdict]:
        import numpy as np

        from stages.curation.ngrams import NGrams
        from stages.curation.words import english

        verdicts = [KEEP] * len(texts)
        lengths = np.array([len(text) for text in texts])
        n_grams, kept = NGrams(english().words(texts)), np.ones(len(texts), np.bool_)
        questions = [(f"top_{n}_gram", n_grams.top_characters, n, limit) for n, limit in self.top_n_grams]
        questions += [
            (f"duplicated_{n}_n_grams", n_grams.repeated_characters, n, limit) for n, limit in self.dup_n_grams
        ]
        for reason, count, n, limit in questions:
            least = (limit * lengths).astype(np.int64) - 1  # one less, for what the multiplication rounds up
            fractions = count(n, kept, least) / lengths
            for index in np.flatnonzero(kept & (fractions > limit)).tolist():
                verdicts[index] = Verdict(reason, {reason: float(fractions[index])})
                kept[index] = False
        return verdicts


def _paragraphs(text: str) -> list[str]:
    """Split at two line ends or more: as a regular expression would, four times as fast."""
    pieces = [piece.lstrip("\n") for piece in text.split("\n\n")]
    return [piece for piece in pieces if piece] or [""]


def _lines(text: str) -> list[str]:
    """Split at line ends, as datatrove does: one at the beginning or the end of the text has an empty line there."""
    lines = [line for line in text.split("\n") if line]
    return [""] * text.startswith("\n") + lines + [""] * text.endswith("\n")
