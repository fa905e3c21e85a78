"""What the words of a license column mean in SPDX's terms.

Three ways, in this order: the words are an SPDX expression; they name or link a Creative Commons license with its
version; or they are in license_names.tsv. Nothing else is taken for a license: it is refused with its words.
"""

import re
from functools import cache, lru_cache
from pathlib import Path

from stages.corpus.licenses import UNRECOGNIZED, License, stated
from stages.errors import UserError

_NAMES = Path(__file__).with_name("license_names.tsv")
_LINK = re.compile(r"https?://\S+")
_CC_LINK = re.compile(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z0-9+-]+)/(\d\.\d)(?:/([a-z]{2,3}))?(?=/|$)")
_CC_WORDS = re.compile(r"(?:cc|creative commons)[ -](by(?:[ -](?:nc|nd|sa))*)[ -]v?(\d\.\d)(?:[ -]([a-z]{2,3}))?")
_CC_NAMES = (  # the parts of a long name, as in "Attribution-NonCommercial-ShareAlike 4.0 International"
    (re.compile(r"attribution|\bby\b"), "by"),
    (re.compile(r"non[ -]?commercial|\bnc\b"), "nc"),
    (re.compile(r"no[ -]?deriv(?:ative)?s?(?: works)?|\bnd\b"), "nd"),
    (re.compile(r"share[ -]?alike|\bsa\b"), "sa"),
)
_CC_LONG = re.compile(r"(?:creative commons )?(attribution[a-z -]*?)[ -]?v?(\d\.\d)(?: (?:international|unported))?")
_CC_FILLER = frozenset(  # what may stand beside these parts
    {"cc", "creative", "commons", "license", "licence", "public", "domain", "zero", "mark", "dedication", "version"}
    | {"universal", "international", "unported", "1.0", "2.0", "2.5", "3.0", "4.0"}
)
_VERSION = re.compile(r"\d\.\d")
_CC_DOMAIN = {"zero": "CC0", "mark": "CC-PDM"}


def of_column(value: object, where: str) -> License:
    """Return the license that a cell of a license column states.

    Raises:
        UserError: The cell holds no text; the message says `where` it is.
    """
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {value!r:.80} is not the name of a license. Correct the column, or name another.")
    return of_words(value or "")


@lru_cache(maxsize=4096)
def of_words(words: str) -> License:
    """Return the license that free text names: one, or several divided by ` AND ` and ` OR ` as in SPDX."""
    terms = stated(words)
    if not terms.problem or not words.strip():
        return terms
    names = " ".join(words.lower().split()).strip("\"'. ")
    found = _linked(names) or _creative_commons(names) or _named(names)
    return stated(found) if found and not stated(found).problem else License(words, UNRECOGNIZED)


def _linked(names: str) -> str | None:
    """Return the license of the one link, if the words around it are no more than its name, and the same."""
    link, around = _link(names), _LINK.sub("", names)
    if not link or not _is_all_known(around):
        return None
    parts, versions = _parts(around), _VERSION.findall(around)
    if (parts and parts != link[1].split("-")) or not {link[2]}.issuperset(versions):
        return None
    return _identifier(*link.groups())


def _link(names: str) -> re.Match[str] | None:
    links = _LINK.findall(names)
    return _CC_LINK.search(links[0].rstrip(".,;)")) if len(links) == 1 else None


def _parts(name: str) -> list[str]:
    return [part for pattern, part in _CC_NAMES if pattern.search(name)]


def _is_all_known(name: str) -> bool:
    """Return whether a name has no words but parts and filler: another, as a misspelt one, may limit the license."""
    for pattern, _ in _CC_NAMES:
        name = pattern.sub(" ", name)
    return _CC_FILLER.issuperset(re.findall(r"[^\s(),/-]+", name))


def _creative_commons(names: str) -> str | None:
    if found := _CC_WORDS.fullmatch(names):
        return _identifier(*found.groups())
    if (found := _CC_LONG.fullmatch(names)) and _is_all_known(found[1]):
        return _identifier("-".join(_parts(found[1])), found[2], None)
    return None


def _named(names: str) -> str | None:
    """Return the license of a name, unless the words link a Creative Commons license that is another."""
    found = _names().get(_LINK.sub("", names).strip(" -"))
    if "creativecommons.org" not in names:
        return found
    link = _link(names)
    return found if link and _identifier(*link.groups()) == found else None


def _identifier(code: str, version: str, port: str | None) -> str:
    if code in _CC_DOMAIN:
        return f"{_CC_DOMAIN[code]}-{version}"
    country = f"-{port}" if port else ""
    return f"CC-{code.replace(' ', '-')}-{version}{country}".upper()


@cache
def _names() -> dict[str, str]:
    lines = _NAMES.read_text(encoding="utf-8").splitlines()
    rows = (line.partition("\t") for line in lines if line and not line.startswith("#"))
    return {name: expression for name, _, expression in rows}
