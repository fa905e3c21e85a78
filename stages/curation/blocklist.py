"""Tag texts that have words or phrases of lists, such as C4's of bad words, a list for each language.

A phrase counts as whole words, whatever its case, as in C4 (Raffel et al. 2019, arXiv:1910.10683, section 2.2); in
scripts that are written without spaces anywhere. A list knows words, not what is said with them: C4's English list
finds 7 % of HateCheck's 1,902 hateful sentences and 18 % of its 894 others, so the tag says what words a text has, not
that it is toxic.
"""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.corpus.sources import Sha256
from stages.curation.step import KEEP, Step, Verdict, each_text
from stages.errors import UserError
from stages.settings import Settings

_JOINED = re.compile(  # two characters of a word, of scripts that are written with spaces
    r"[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]{2}"
)


class WordList(Settings):
    """A pinned file with a word or phrase a line."""

    path: Path = Field(strict=False)
    """The file, UTF-8."""
    sha256: Sha256
    """Its digest."""
    allow: tuple[str, ...] = ()
    """Words of the file that do not count."""

    def phrases(self) -> list[str]:
        """Return the phrases that count, in lower case.

        Raises:
            UserError: The file is missing, is not the pinned one, or is not UTF-8.
        """
        from stages.files import sha256_file

        if not self.path.is_file():
            raise UserError(f"Word list '{self.path}' is missing. Correct its `path`.")
        if (found := sha256_file(self.path)) != self.sha256:
            raise UserError(
                f"Word list '{self.path}' has the digest {found}, not {self.sha256}. Fetch the pinned file."
            )
        try:
            lines = self.path.read_text(encoding="utf-8").lower().splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"Word list '{self.path}' is not UTF-8: {error}. Convert it and pin the result.") from error
        allowed = {word.lower() for word in self.allow}
        return sorted({phrase for line in lines if (phrase := line.strip())} - allowed)


class Blocklist(Settings):
    """Tag a text `blocklist:<list>` for each list of which it has enough words; numbers say how many."""

    step: Literal["blocklist"]
    """Picks this step."""
    lists: dict[str, WordList]
    """By name, such as a language's code."""
    min_count: int = Field(ge=1)
    """How many words of a list, counted each time, make the tag (C4: 1)."""

    def build(self) -> Step:
        """Return the step.

        Raises:
            UserError: A list's file is missing or is not the pinned one.
        """
        count = counter({name: words.phrases() for name, words in self.lists.items()})
        return each_text(lambda text: self._judge(count(text)))

    def _judge(self, counts: "Counter[str]") -> Verdict:
        found = sorted(name for name, count in counts.items() if count >= self.min_count)
        if not found:
            return KEEP
        return Verdict(
            numbers={name: counts[name] for name in found}, tags=tuple(f"blocklist:{name}" for name in found)
        )


def counter(lists: dict[str, list[str]]) -> "Callable[[str], Counter[str]]":
    """Return the function that counts the phrases of each list in a text, by an automaton for them all."""
    if not any(lists.values()):
        return lambda _: Counter()
    automaton = _automaton(lists)

    def count(text: str) -> Counter[str]:
        text = text.lower()
        counts: Counter[str] = Counter()
        for last, (length, names) in automaton.iter(text):
            if _is_whole(text, last - length + 1, last + 1):
                counts.update(names)
        return counts

    return count


def _automaton(lists: dict[str, list[str]]) -> Any:
    import ahocorasick  # type: ignore[import-not-found]  # a C extension without stubs

    names: dict[str, list[str]] = {}
    for name, phrases in lists.items():
        for phrase in phrases:
            names.setdefault(phrase, []).append(name)
    automaton = ahocorasick.Automaton()
    for phrase, holders in names.items():
        automaton.add_word(phrase, (len(phrase), holders))
    automaton.make_automaton()
    return automaton


def _is_whole(text: str, start: int, end: int) -> bool:
    """Return whether text[start:end] begins and ends where words do."""
    return not ((start > 0 and _JOINED.match(text, start - 1, start + 1)) or _JOINED.match(text, end - 1, end + 1))
