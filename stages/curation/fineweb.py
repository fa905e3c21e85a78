"""FineWeb's quality filter (Penedo et al. 2024, arXiv:2406.17557, section 3.6) as datatrove 0.10.1 has it."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from stages.curation.punctuation import TERMINAL
from stages.curation.step import KEEP, Step, Verdict
from stages.settings import Settings

if TYPE_CHECKING:
    from stages.corpus.documents import Document


class FineWeb(Settings):
    """Drop lists, menus and repeated lines by the share of lines that end a sentence, are short, or come again.

    Empty lines do not count. Words are those of spaCy's English; the reasons are datatrove's. Of a text without
    words, the lines by words are 0 (datatrove divides by zero).
    """

    step: Literal["fineweb"]
    """Picks this step."""
    line_punct_thr: float = Field(default=0.12, ge=0, le=1)
    """Fraction of the lines that end with terminal punctuation, at least."""
    line_punct_exclude_zero: bool = False
    """Keep texts in which no line does."""
    stop_chars: str | None = Field(default=None, min_length=1)
    """The characters that are terminal punctuation; null takes those of all scripts."""
    short_line_thr: float = Field(default=0.67, ge=0, le=1)
    """Fraction of the lines that are short, at most."""
    short_line_length: int = Field(default=30, ge=0)
    """Characters of a short line, at most."""
    char_duplicates_ratio: float = Field(default=0.01, ge=0, le=1)
    """Characters in lines that repeat an earlier one, by those of all lines, at most."""
    new_line_ratio: float = Field(default=0.3, ge=0)
    """Line ends by words, at most."""

    def build(self) -> Step:
        """Return the step."""
        return self._judge

    def _judge(self, documents: Sequence["Document"]) -> list[Verdict]:
        from stages.curation.words import english

        stop_chars = TERMINAL if self.stop_chars is None else frozenset(self.stop_chars)
        verdicts = [self._judge_lines(document.text, stop_chars) for document in documents]
        left = [index for index, verdict in enumerate(verdicts) if verdict is KEEP]
        texts = [documents[index].text for index in left]
        for index, text, words in zip(left, texts, english().words(texts).counts.tolist(), strict=True):
            ratio = text.count("\n") / max(words, 1)
            if ratio > self.new_line_ratio:
                verdicts[index] = Verdict("list_ratio", {"list_ratio": ratio})
        return verdicts

    def _judge_lines(self, text: str, stop_chars: frozenset[str]) -> Verdict:
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return Verdict("empty")
        for reason, ratio, least, most in self._ratios(text, lines, stop_chars):
            if ratio < least or ratio > most:
                return Verdict(reason, {reason: ratio})
        return KEEP

    def _ratios(
        self, text: str, lines: list[str], stop_chars: frozenset[str]
    ) -> Iterator[tuple[str, float, float, float]]:
        """Yield each reason with its ratio and the least and the most that it may be."""
        ending = sum(line[-1] in stop_chars for line in lines) / len(lines)
        yield "line_punct_ratio", ending, 0 if self.line_punct_exclude_zero and not ending else self.line_punct_thr, 1
        short = sum(len(line) <= self.short_line_length for line in lines) / len(lines)
        yield "short_line_ratio", short, 0, self.short_line_thr
        repeated = sum(map(len, lines)) - sum(map(len, set(lines)))
        yield "char_dup_ratio", repeated / (len(text) - text.count("\n")), 0, self.char_duplicates_ratio
