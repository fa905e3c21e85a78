"""The words of spaCy's blank English pipeline, at ten times its speed.

The rules are spaCy's own: its patterns, its special cases and, where special cases meet affixes, its tokenizer. Only
the search is done otherwise. spaCy tries a hundred alternatives at every character of a string to find a suffix;
which of them can match is told by the last character. Checked against spaCy on every distinct string of a corpus.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import spacy
from spacy.lang.char_classes import CURRENCY, ICONS, LIST_ICONS, UNITS

_DIGIT_SUFFIX = re.compile(rf"(?<=[0-9])(?:\+|{CURRENCY}|{UNITS})$")
_DIGIT_SUFFIX_ENDS = frozenset(suffix[-1] for suffix in f"+|{CURRENCY}|{UNITS}".split("|"))
_DIGIT = re.compile("[0-9]")
_LONGEST_DIGIT_SUFFIX = 8
_POSSESSIVES = ("'s", "'S", "\u2019s", "\u2019S")
_DOLLARS = ("US$", "C$", "A$")
_DOLLAR_STARTS = ("U", "C", "A")
_INFIX_STARTS, _ASCII_INFIX_STARTS = f"-.\u2026+*^,\u2013\u2014~:<>=/{ICONS}", "-.+*^,~:<>=/"
_ASCII_PUNCTUATION = [character for character in map(chr, range(128)) if not character.isalnum()]


def _guarded(starts: str, rules: Iterable[str]) -> re.Pattern[str]:
    """Return the expression of all rules, which is tried only where one of them can start."""
    return re.compile(f"(?=[{starts}])({'|'.join(rules)})")


class English:
    """Splits what stands between two spaces into words."""

    def __init__(self) -> None:
        """Read spaCy's rules."""
        pipeline = spacy.blank("en")
        tokenizer: Any = pipeline.tokenizer
        self._prefix, self._suffix = tokenizer.prefix_search.__self__, tokenizer.suffix_search.__self__
        infixes: list[Any] = list(pipeline.Defaults.infixes or ())
        self._infix = _guarded(_INFIX_STARTS, infixes)
        self._ascii_infix = _guarded(_ASCII_INFIX_STARTS, [rule for rule in infixes if rule not in LIST_ICONS])
        self._url = tokenizer.url_match
        self._prefix_lengths: dict[str, int] = {}
        self._suffix_lengths: dict[str, int] = {}
        self._full_stops: dict[str, int] = {}
        self._special: dict[str, list[str]] = {}
        self._phrases: dict[tuple[str, str], list[list[str]]] = {}
        for special in tokenizer.rules:
            if len(phrase := self._split(special)) > 1:
                self._phrases.setdefault((phrase[0], phrase[1]), []).append(phrase)
        self._special = {special: [token.text for token in tokenizer(special)] for special in tokenizer.rules}
        self._openers = "".join(each for each in _ASCII_PUNCTUATION if each not in ".+" and self._prefix.match(each))
        self._closers = "".join(each for each in _ASCII_PUNCTUATION if each != "." and self._suffix.match(each))
        self._bare_ends = f".{self._closers}"
        self._bare_special = {special.lstrip(self._openers).rstrip(self._bare_ends) for special in self._special}

    def __call__(self, chunk: str) -> list[str]:
        """Return the words of a string that has no whitespace."""
        if chunk.isascii() and chunk.isalpha():
            return self._special.get(chunk) or [chunk]
        words = self._special.get(chunk) or self._split_simple(chunk) or self._split(chunk)
        return words if self._phrases.keys().isdisjoint(pairwise(words)) else self._join(words)

    def _join(self, words: list[str]) -> list[str]:
        """Put special cases, such as `:)`, together again; where two overlap, the longer, then the first, is it."""
        found = [
            (-len(phrase), start)
            for start, pair in enumerate(pairwise(words))
            for phrase in self._phrases.get(pair, ())
            if words[start : start + len(phrase)] == phrase
        ]
        taken: set[int] = set()
        joined: dict[int, int] = {}
        for negative_length, start in sorted(found):
            end = start - negative_length
            if start not in taken and end - 1 not in taken:
                joined[start] = end
            taken.update(range(start, end))
        result: list[str] = []
        position = 0
        while position < len(words):
            end = joined.get(position, position + 1)
            whole = "".join(words[position:end])
            result += self._special[whole] if position in joined else [whole]
            position = end
        return result

    def _split_simple(self, chunk: str) -> list[str] | None:
        """Do what `_split` does for a chunk whose affixes are single characters and stops, far from special cases."""
        opened = chunk.lstrip(self._openers)
        stopped = opened.rstrip(self._closers)
        stops = self._full_stop(stopped) if stopped.endswith(".") else 0
        inner = stopped[: len(stopped) - stops]
        core = inner.rstrip(self._closers)
        if not core or core.rstrip(self._bare_ends) in self._bare_special:
            return None
        if not (core.isascii() and core.isalpha()) and (self._prefix_length(core) or self._suffix_length(core)):
            return None
        words = [*chunk[: len(chunk) - len(opened)], *self._split_core(core), *inner[len(core) :]]
        if stops:
            words.append(stopped[-stops:])
        words += opened[len(stopped) :]
        return words

    def _split(self, chunk: str) -> list[str]:
        """Take prefixes and suffixes off until a special case, or nothing more to take, is left; split that."""
        special = self._special
        prefixes: list[str] = []
        suffixes: list[str] = []
        core, length = chunk, 0
        while len(core) != length and core not in special:
            if core.isascii() and core.isalpha():
                return [*prefixes, core, *reversed(suffixes)]
            length = len(core)
            start = self._prefix_length(core)
            if start and core[start:] in special:
                prefixes.append(core[:start])
                core = core[start:]
                break
            end = self._suffix_length(core[start:])
            if end and core[:-end] in special:
                suffixes.append(core[-end:])
                core = core[:-end]
                break
            if start:
                prefixes.append(core[:start])
            if end:
                suffixes.append(core[-end:])
            core = core[start : length - end]
        return [*prefixes, *self._split_core(core), *reversed(suffixes)]

    def _prefix_length(self, text: str) -> int:
        first = text[:1]
        length = self._prefix_lengths.get(first)
        if length is None:  # `$` with letters before it, and what looks ahead
            if first in _DOLLAR_STARTS:
                return next((len(dollar) for dollar in _DOLLARS if text.startswith(dollar)), 0)
            match = self._prefix.match(text)
            length = match.end() if match else 0
            if first not in ".+":
                self._prefix_lengths[first] = length
        return length

    def _suffix_length(self, text: str) -> int:
        last = text[-1:]
        if last == ".":
            return self._full_stop(text)
        length = self._suffix_lengths.get(last)
        if length is None:
            length = self._suffix_lengths[last] = int(bool(self._suffix.match(last)))
        if length:
            return 2 if text.endswith("……") else 1
        if last in "sS" and text.endswith(_POSSESSIVES):
            return 2
        if last not in _DIGIT_SUFFIX_ENDS:
            return 0
        tail = text[-_LONGEST_DIGIT_SUFFIX:]
        match = _DIGIT_SUFFIX.search(tail) if _DIGIT.search(tail) else None
        return match.end() - match.start() if match else 0

    def _full_stop(self, text: str) -> int:
        stops = len(text) - len(text.rstrip("."))
        if stops > 1:
            return stops
        tail = text[-3:]  # no rule looks further back
        length = self._full_stops.get(tail)
        if length is None:
            length = self._full_stops[tail] = int(bool(self._suffix.search(tail)))
        return length

    def _split_core(self, core: str) -> list[str]:
        if not core:
            return []
        if core in self._special:
            return self._special[core]
        if core.isalnum() or ("." in core and self._url(core)):
            return [core]
        words = (self._ascii_infix if core.isascii() else self._infix).split(core)
        if not words[0]:  # an infix at the start is none
            words[:3] = ["".join(words[:3])]
        return [word for word in words if word]
