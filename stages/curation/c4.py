"""C4's quality filter (Raffel et al. 2020, arXiv:1910.10683, section 2.2) as datatrove 0.10.1 has it."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from stages.curation.step import Step, Verdict
from stages.settings import Settings

if TYPE_CHECKING:
    from stages.corpus.documents import Document

_CITATION = re.compile(r"\[\d*]|\[edit]|\[citation needed]")
_ENDS = (".", "?", "!", '"', "'")
_ELLIPSIS = "..."
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class _Lines(NamedTuple):
    """What is left of a text.

    Attributes:
        kept: The lines, without surrounding space and citations.
        dropped: The number of dropped lines by reason.
        reason: Why the whole text is dropped, or None.
    """

    kept: list[str]
    dropped: Counter[str]
    reason: str | None = None


class C4(Settings):
    """Keep the lines that are sentences, and the texts with enough of them.

    A line goes that has a very long word, no punctuation at its end, few words, the word JavaScript, or a phrase of
    a site's terms; a text goes that has, in a line that would stay, a curly bracket or the words lorem ipsum.
    Surrounding space of lines goes too. Sentences are those of spaCy's sentencizer for English; reasons are
    datatrove's. Reported are the lines dropped for each reason and, where the text goes, the line it goes for.
    """

    step: Literal["c4"]
    """Picks this step."""
    remove_citations: bool = True
    """Take out `[1]`, `[edit]` and `[citation needed]`, as on Wikipedia."""
    filter_no_terminal_punct: bool = True
    """Drop lines that do not end with a full stop, question or exclamation mark or quote, or end with an ellipsis."""
    min_num_sentences: int | None = Field(default=5, gt=0)
    """Sentences left in a text, at least; null does not ask."""
    min_words_per_line: int | None = Field(default=3, gt=0)
    """Words in a line, split at spaces, at least; null does not ask."""
    max_word_length: int | None = Field(default=1000, gt=0)
    """Characters of a line's longest word; null does not ask."""
    filter_lorem_ipsum: bool = True
    """Drop texts with this phrase, in any case."""
    filter_javascript: bool = True
    """Drop lines with this word, in any case."""
    filter_curly_bracket: bool = True
    """Drop texts with `{`."""
    filter_policy: bool = True
    """Drop lines that speak of cookies, terms of use or privacy."""

    def build(self) -> Step:
        """Return the step."""
        return self._judge

    def _judge(self, documents: Sequence["Document"]) -> list[Verdict]:
        texts = [self._select(document.text) for document in documents]
        least = self.min_num_sentences or 0
        # A line has a sentence at least, so that most texts need not be split into sentences.
        short = [index for index, lines in enumerate(texts) if not lines.reason and len(lines.kept) < least]
        sentences = dict(zip(short, _count_sentences([texts[index].kept for index in short]), strict=True))
        return [_verdict(lines, sentences.get(index, least), least) for index, lines in enumerate(texts)]

    def _select(self, text: str) -> _Lines:
        lines = _Lines([], Counter())
        for line in text.splitlines():
            stripped = line.strip()
            words = stripped.split()
            if self._has_long_word(words):
                lines.dropped["too_long_word"] += 1
                continue
            if self.remove_citations and "[" in stripped:
                stripped = _CITATION.sub("", stripped)
            reason, whole_text = self._fault(stripped, len(words))
            if whole_text:
                return lines._replace(reason=reason)
            if reason:
                lines.dropped[reason] += 1
            else:
                lines.kept.append(stripped)
        return lines

    def _has_long_word(self, words: list[str]) -> bool:
        return self.max_word_length is not None and max(map(len, words), default=0) > self.max_word_length

    def _fault(self, line: str, words: int) -> tuple[str | None, bool]:
        """Return why a line is dropped, or None, and whether the whole text goes with it."""
        if self.filter_no_terminal_punct and (not line.endswith(_ENDS) or line.endswith(_ELLIPSIS)):
            return "no_terminal_punc", False
        if self.min_words_per_line is not None and words < self.min_words_per_line:
            return "too_few_words", False
        lower = line.lower()
        if self.filter_lorem_ipsum and "lorem ipsum" in lower:
            return "lorem_ipsum", True
        if self.filter_javascript and "javascript" in lower:
            return "javascript", False
        if self.filter_curly_bracket and "{" in line:
            return "curly_bracket", True
        if self.filter_policy and any(phrase in lower for phrase in _POLICY):
            return "policy", False
        return None, False


def _count_sentences(texts: list[list[str]]) -> list[int]:
    """Return the sentences in the lines of each text."""
    from stages.curation.sentences import count_sentences

    counts = iter(count_sentences([line for lines in texts for line in lines]))
    return [sum(next(counts) for _ in lines) for lines in texts]


def _verdict(lines: _Lines, sentences: int, least: int) -> Verdict:
    numbers = {f"lines_{reason}": float(count) for reason, count in sorted(lines.dropped.items())}
    if lines.reason:
        return Verdict(lines.reason, {"line": len(lines.kept) + lines.dropped.total() + 1})
    if sentences < least:
        return Verdict("too_few_sentences", {"sentences": sentences} | numbers)
    return Verdict(numbers=numbers, text="\n".join(lines.kept).strip())
