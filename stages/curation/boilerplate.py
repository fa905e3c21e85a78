"""Boilerplate that says nothing about its text: Project Gutenberg's header and licence, licences on top of code.

A text that is nothing else stays as it is, so that another step may judge it.
"""

import re
from collections.abc import Iterator
from itertools import groupby, islice, pairwise
from typing import Literal

from stages.curation.step import KEEP, Step, Verdict, each_text
from stages.settings import Settings

_HEADER_CHARACTERS = 40_000
_FOOTER_CHARACTERS = 60_000
_GUTENBERG_STARTS = re.compile(
    r"^\*{3} ?START OF TH(?:IS|E) PROJECT GUTENBERG E(?:BOOK|TEXT)[^*]{0,300}\*{3}\s*"
    r"|^\*END ?\*? ?THE SMALL PRINT![^\n]*\*END\*\s*",
    re.MULTILINE | re.IGNORECASE,
)
_GUTENBERG_ENDS = re.compile(
    r"^(?:(?:The )?End of (?:the |this )?Project Gutenberg|\*{3} ?END OF TH(?:IS|E) PROJECT GUTENBERG)",
    re.MULTILINE | re.IGNORECASE,
)

_TOP_LINES, _TOP_CHARACTERS = 300, 4096
_NOTICE = re.compile(r"copyright|spdx-license-identifier|licen[sc]ed? |all rights reserved", re.IGNORECASE)
_LEGAL = re.compile(
    r"copyright|spdx-|licen[sc]e|all rights reserved|redistribut|permission is hereby|warrant|liab(?:le|ility)"
    r"|\bas is\b|free software|may obtain a copy|applicable law|public domain|patent|terms of the|/legal/",
    re.IGNORECASE,
)
_BLOCKS = {"/*": "*/", "<!--": "-->", "(*": "*)", "{-": "-}"}
_LINE = re.compile(r"[ \t]*(?://|\#(?=[\s#]|\Z)|--(?=[\s-]|\Z)|;|%)")
_FIRST = re.compile(r"#!|<\?|%YAML|#.{0,20}coding[:=]|// ?@|//go:")
_SAYS = re.compile(r"[^\W_]")


class Boilerplate(Settings):
    """Take boilerplate out of a text; numbers say how many characters of which."""

    step: Literal["boilerplate"]
    """Picks this step."""
    gutenberg: bool
    """Take out what Project Gutenberg put before and after a book, up to its own marks, from 1993 to now."""
    license_headers: bool
    """Take out the paragraphs about copyright and licence of the comments on top of a file, for code only: a line of
    prose may begin with `#`. The licence stays known as the document's own."""

    def build(self) -> Step:
        """Return the step."""
        return each_text(self._judge)

    def _judge(self, text: str) -> Verdict:
        start, end, numbers = 0, len(text), {}
        if self.gutenberg and ("Gutenberg" in text or "GUTENBERG" in text):
            start, end = _book(text)
            numbers = {"gutenberg_header": start, "gutenberg_footer": len(text) - end}
        kept = text[start:end]
        if self.license_headers and _NOTICE.search(kept, 0, _TOP_CHARACTERS):
            code = _without_license(kept)
            numbers["license_header"] = len(kept) - len(code)
            kept = code
        if kept == text or not kept.strip():
            return KEEP
        return Verdict(numbers={name: number for name, number in numbers.items() if number}, text=kept)


def _book(text: str) -> tuple[int, int]:
    """Return where the book itself starts and ends, without the blank lines around it."""
    starts = [match.end() for match in _GUTENBERG_STARTS.finditer(text, 0, _HEADER_CHARACTERS)]
    start = starts[-1] if starts else 0
    ends = _GUTENBERG_ENDS.search(text, max(start, len(text) - _FOOTER_CHARACTERS))
    return start, len(text[: ends.start()].rstrip()) if ends else len(text)


def _without_license(text: str) -> str:
    """Return code without the legal paragraphs of its first comments."""
    *lines, rest = _first_lines(text)
    kept: list[str] = []
    count = 0
    for comment in _comments(lines):
        kept += _without_legal(comment) if _NOTICE.search("".join(comment)) else comment
        count += len(comment)
    if len(kept) == count:
        return text
    return "".join([*kept, *lines[count:], rest]).lstrip("\r\n")


def _first_lines(text: str) -> list[str]:
    """Return the first lines, each with its end, and the rest of the text as the last one."""
    ends = [match.end() for match in islice(re.finditer(r"\n", text), _TOP_LINES)]
    return [text[start:end] for start, end in pairwise([0, *ends, len(text)])]


def _comments(lines: list[str]) -> Iterator[list[str]]:
    """Yield what comes before the first line of code: comments whole, and other lines that may come before them."""
    number = 0
    while number < len(lines):
        length = _comment_length(lines[number:])
        if not length:
            return
        yield lines[number : number + length]
        number += length


def _comment_length(lines: list[str]) -> int:
    """Return how many lines the comment has that begins here; 1 for a blank line, 0 for code."""
    line = lines[0].strip()
    if not line or _FIRST.match(line):
        return 1
    for opener, closer in _BLOCKS.items():
        if line.startswith(opener):
            length = next((number for number, line in enumerate(lines, 1) if closer in line), 0)
            return length if length and lines[length - 1].rstrip().endswith(closer) else 0
    return next((number for number, line in enumerate(lines) if not _LINE.match(line)), len(lines))


def _without_legal(comment: list[str]) -> list[str]:
    """Return the comment's lines without its legal paragraphs, still a comment; none if nothing else is said."""
    kept: list[str] = []
    separator: list[str] = []
    for says, lines in groupby(comment, key=_says):
        paragraph = list(lines)
        if not says:
            separator = paragraph
        elif not _LEGAL.search("".join(paragraph)):
            kept += [*separator, *paragraph] if kept else paragraph
    return _closed(kept, comment) if kept else []


def _closed(kept: list[str], comment: list[str]) -> list[str]:
    """Return lines of a block comment with its opener and closer; of other comments as they are."""
    opener = next((opener for opener in _BLOCKS if comment[0].lstrip().startswith(opener)), None)
    if opener is None:
        return kept
    closer = _BLOCKS[opener]
    first = [] if kept[0] == comment[0] else [f"{opener}\n"]
    last = [] if closer in kept[-1] else [f" {closer}\n"]
    return [*first, *kept, *last]


def _says(line: str) -> bool:
    """Return whether the line of a comment says anything."""
    return bool(_SAYS.search(line))
