"""Where a text has secrets: tokens and keys by the shapes that their issuers gave them, and random values by name.

The shapes and the limits of entropy are those of detect-secrets' plugins (Yelp, Apache-2.0), which reads files line
by line at a small part of the speed that a corpus needs. Passwords that are words are not found.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator

from stages.curation.personal import Span

_SHAPES = (  # a string that each has, which is fast to look for, and its pattern
    ("AKIA", r"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("ASIA", r"(?<![A-Z0-9])ASIA[A-Z0-9]{16}(?![A-Za-z0-9])"),
    ("AIza", r"\bAIza[\w-]{35}(?![\w-])"),
    *((f"gh{kind}_", rf"\bgh{kind}_[A-Za-z0-9]{{36}}(?![A-Za-z0-9])") for kind in "pousr"),
    ("github_pat_", r"\bgithub_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}\b"),
    ("glpat-", r"\bglpat-[\w-]{20,}"),
    ("hf_", r"\bhf_[A-Za-z]{34}\b"),
    ("npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("pypi-", r"\bpypi-AgE[\w-]{70,}"),
    ("sk-ant-", r"\bsk-ant-[\w-]{32,}"),
    ("T3BlbkFJ", r"\bsk-[\w-]*T3BlbkFJ[\w-]{20,}"),
    ("k_live_", r"\b[sr]k_live_[A-Za-z0-9]{24,}"),
    ("xox", r"\bxox[abeprs]-(?:[0-9]{8,}-)*[A-Za-z0-9-]{10,}"),
    ("hooks.slack.com/", r"https://hooks\.slack\.com/services/T\w+/B\w+/\w{20,}"),
    ("eyJ", r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"),
    (
        "PRIVATE KEY",
        r"-----BEGIN (?P<kind>[A-Z ]*)PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END (?P=kind)PRIVATE KEY"
        r"(?: BLOCK)?-----|\Z)",
    ),
)
_ASSIGNED = re.compile(
    r"""[:=](?:>|[ \t]{0,2}|&gt;)[ \t]?(?P<quote>["'`]?)(?P<value>[\w+/.-]{20,128}={0,2})(?P=quote)"""
)
_NAME = re.compile(
    r"(?:key|token|secret|passw(?:or)?d|pwd|credentials?|auth)(?:_?(?:id|string|value|base64|hex))?"
    r"[\"'\]]{0,2}[ \t]{0,8}\Z",
    re.IGNORECASE,
)
_NAME_CHARACTERS = 48
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]+")
_EXAMPLE = re.compile(r"example|placeholder|dummy|changeme|your[-_]|x{6}|(?:0123456789|abcdefghij)", re.IGNORECASE)


def finder(min_base64_entropy: float, min_hex_entropy: float, spare_examples: bool) -> Callable[[str], Iterator[Span]]:
    """Return the function that yields the secrets of a text.

    Args:
        min_base64_entropy: Bits a character that a value of letters and digits has, if a secret is assigned by name.
        min_hex_entropy: The same for hexadecimal digits.
        spare_examples: Leave out secrets that say that they are none, such as `AKIAIOSFODNN7EXAMPLE`.
    """
    shapes = [(hint, re.compile(pattern)) for hint, pattern in _SHAPES]

    def find(text: str) -> Iterator[Span]:
        for hint, pattern in shapes:
            if hint in text:
                for match in pattern.finditer(text):
                    if not (spare_examples and _EXAMPLE.search(match.group())):
                        yield Span(*match.span(), "secret")
        for match in _ASSIGNED.finditer(text):
            value = match["value"]
            least = min_hex_entropy if _HEXADECIMAL.fullmatch(value) else min_base64_entropy
            if _named(match) and _random(value, least) and not (spare_examples and _EXAMPLE.search(value)):
                yield Span(*match.span("value"), "secret")

    return find


def entropy(value: str) -> float:
    """Return the entropy of a string's characters, in bits a character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def _named(match: re.Match[str]) -> bool:
    start = match.start()
    return bool(_NAME.search(match.string, max(0, start - _NAME_CHARACTERS), start))


def _random(value: str, least: float) -> bool:
    """Return whether the value has digits, letters and the entropy; most names in code have no digits."""
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and entropy(value) >= least
