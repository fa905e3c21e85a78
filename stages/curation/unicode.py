"""Repair what wrong decoding and old software left in a text: mojibake, control characters, unnormalised letters.

Mojibake is ftfy's (Speer 2019, doi:10.5281/zenodo.2591652), in its own configuration, which in 56 MB of real texts and
Python's library found it in 12 lines of Wikipedia and of Arabic XQuAD: 11 were repaired and one was past repair.
Nothing else of ftfy runs: HTML entities, curly quotes,
ligatures, wide letters and line breaks are part of a text, the more so in code. Code that is about encodings has
mojibake on purpose: set `mojibake` to false there.
"""

import re
import unicodedata
from typing import Literal

from stages.curation.step import KEEP, Step, Verdict, each_text
from stages.settings import Settings

_CONTROLS = re.compile(
    r"\x1b\[[0-9;]*[A-Za-z]"  # what coloured a terminal goes as a whole
    r"|[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffb]"
)
_SUSPECT = r"[\x80-\u0390\u03aa-\u03b0\u03ca-\u040f\u0450-\u04ff\u2000-\u26ff\ufb01\ufb02]"
SUSPECT_LINE = re.compile(
    rf"[^\x00-\x7f](?:(?<={_SUSPECT})(?:[^\x00-\x7f]|(?<=[\x80-\x9f\u00c2\u00c3\u0152\u0153]))|{_SUSPECT})[^\n]*"
)
"""What ftfy may find bad: a necessary condition of its own expression, some ten times as fast on most texts."""


class Unicode(Settings):
    """Repair a text; numbers say how many lines and characters; a repaired text is repaired no further."""

    step: Literal["unicode"]
    """Picks this step."""
    mojibake: bool
    """Decode anew, line by line, what was decoded as Latin-1, Windows-1252 and the like though it was UTF-8."""
    controls: bool
    """Take out NUL and other control characters (not tab, line feed, form feed, carriage return), byte order marks,
    colours of terminals, and characters that Unicode deprecates or keeps for annotation."""
    normalization: Literal["NFC"] | None
    """Compose letters and their accents; null leaves them as they are."""

    def build(self) -> Step:
        """Return the step."""
        return each_text(self._judge)

    def _judge(self, text: str) -> Verdict:
        repaired, numbers = self._repaired(text)
        if repaired == text:
            return KEEP
        while (again := self._repaired(repaired)[0]) != repaired:  # what one repair uncovers for another
            repaired = again
        return Verdict(None if repaired else "empty", numbers, repaired or None)

    def _repaired(self, text: str) -> tuple[str, dict[str, float]]:
        """Return the text after each repair, and how much each one changed."""
        counts = {"control_characters": 0, "mojibake_lines": 0, "normalized": 0}
        if self.controls and _CONTROLS.search(text):
            shorter = _CONTROLS.sub("", text)
            text, counts["control_characters"] = shorter, len(text) - len(shorter)
        if self.mojibake and not text.isascii():
            text, counts["mojibake_lines"] = _decoded(text)
        if self.normalization and not unicodedata.is_normalized(self.normalization, text):
            text, counts["normalized"] = unicodedata.normalize(self.normalization, text), 1
        return text, {name: count for name, count in counts.items() if count}


def _decoded(text: str) -> tuple[str, int]:
    """Return the text without mojibake and the number of lines that had some."""
    from ftfy import fix_encoding

    pieces, start, count = [], 0, 0
    for match in SUSPECT_LINE.finditer(text):
        begin = text.rfind("\n", 0, match.start()) + 1
        line = text[begin : match.end()]
        fixed = fix_encoding(line)
        if fixed != line:
            pieces += [text[start:begin], fixed]
            start, count = match.end(), count + 1
    return "".join([*pieces, text[start:]]), count
