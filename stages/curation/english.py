"""The words of spaCy's blank English pipeline, at six times its speed.

The rules are spaCy's own: its patterns, its special cases and, where special cases meet affixes, its tokenizer. Only
the search is done otherwise. spaCy tries a hundred alternatives at every character of a string to find a suffix;
which of them can match is told by the last character. Checked against spaCy on every distinct string of a corpus.
"""

import re
from itertools import pairwise
from typing import Any

import spacy
from spacy.lang.char_classes import CURRENCY, ICONS, LIST_ICONS, UNITS
from spacy.util import compile_infix_regex

_DIGIT_SUFFIX = re.compile(rf"(?<=[0-9])(?:\+|{CURRENCY}|{UNITS})$")
_DIGIT = re.compile("[0-9]")
_LONGEST_DIGIT_SUFFIX = 8
_POSSESSIVES = ("'s", "'S", "\u2019s", "\u2019S")
_DOLLARS = ("US$", "C$", "A$")
_DOLLAR_STARTS = ("U", "C", "A")
_INFIX_START = re.compile(f"[-.\u2026+*^,\u2013\u2014~:<>=/{ICONS}]")
_ASCII_INFIX_START = re.compile("[-.+*^,~:<>=/]")


class English:
    """Splits what stands between two spaces into words."""

    def __init__(self) -> None:
        """Read spaCy's rules."""
        pipeline = spacy.blank("en")
        tokenizer: Any = pipeline.tokenizer
        self._prefix, self._suffix = tokenizer.prefix_search.__self__, tokenizer.suffix_search.__self__
        self._infix = tokenizer.infix_finditer
        ascii_infixes = [rule for rule in pipeline.Defaults.infixes or () if rule not in LIST_ICONS]
        self._ascii_infix = compile_infix_regex(ascii_infixes).finditer
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

    def __call__(self, chunk: str) -> list[str]:
        """Return the words of a string that has no whitespace."""
        words = self._special.get(chunk) or self._split(chunk)
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
        if text.endswith(_POSSESSIVES):
            return 2
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
        search, find = (_ASCII_INFIX_START, self._ascii_infix) if core.isascii() else (_INFIX_START, self._infix)
        first = search.search(core)
        if first is None:
            return [core]
        words, start = [], 0
        for infix in find(core, first.start()):
            if infix.start() == 0:
                continue
            words += [core[start : infix.start()], infix.group()]
            start = infix.end()
        words.append(core[start:])
        return [word for word in words if word]
