"""Who asked that a text should not be trained on: lists by id, address, domain and author, and robots.txt snapshots.

A list is a text file, an entry a line; blank lines and lines that begin with `#` are passed over. Entries are:

- ids: a document's id, 32 hex digits;
- urls: an address, matched whole but for its scheme, its fragment and how its characters are escaped;
  `https://example.org/wiki/*` also takes all below;
- domains: `example.org`, which also takes `www.example.org`;
- authors: a name, matched whole but for case and spaces, or as one of the names that `;`, `|`, `&` or `and` divide.

A robots.txt snapshot is JSON lines, an object a file: `url` is the address of a robots.txt, `text` is what it held. If
there are several of a host, as of its http and https, each is obeyed. Groups, wildcards and the longest match are
those of RFC 9309, by protego, which adds spellings that crawlers forgive.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, unquote, urlsplit

from stages.corpus.documents import Document
from stages.errors import UserError
from stages.files import sha256_file

if TYPE_CHECKING:
    from protego import Protego

Kind = Literal["ids", "urls", "domains", "authors"]
Match = Callable[[Document], bool]

_ID = re.compile(r"[0-9a-f]{32}")
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")
_BELOW = "/*"
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*:)?//", re.IGNORECASE)
_BETWEEN_NAMES = re.compile(r"[;|&\n]|\band\b")


def listed(path: Path, kind: Kind) -> Match:
    """Return whether a document is on a list.

    Raises:
        UserError: The file is missing, or an entry is not of this kind.
    """
    entries = {_entry(line, kind, f"{path}:{number}") for number, line in _lines(path)}
    if kind == "ids":
        return lambda document: document.id in entries
    if kind == "authors":
        return lambda document: not entries.isdisjoint(_authors(document.author))
    above = domains_above if kind == "domains" else addresses_above
    return lambda document: not entries.isdisjoint(above(document.url))


def forbidden(path: Path, user_agents: tuple[str, ...]) -> Match:
    """Return whether the robots.txt of a document's host, as the snapshot has it, keeps one of the agents out.

    A document without an address, or of a host that the snapshot lacks, is not kept out.

    Raises:
        UserError: The file is missing, or is not such a snapshot.
    """
    places: dict[str, list[int]] = defaultdict(list)  # where a host's files are: all of a crawl's fill a memory
    for place, url in _robots(path):
        places[_host(url)].append(place)

    @lru_cache(maxsize=1024)
    def rules(host: str) -> "list[Protego]":
        return [_rules_at(path, place) for place in places.get(host, ())]

    def is_forbidden(document: Document) -> bool:
        found = rules(_host(document.url)) if document.url else ()
        return not all(each.can_fetch(_parts(document.url).geturl(), agent) for each in found for agent in user_agents)

    return is_forbidden


def check_pin(path: Path, sha256: str, key: str) -> None:
    """Check that a list is the pinned one.

    Raises:
        UserError: It is missing or another one.
    """
    if not path.is_file():
        raise UserError(f"{key}.path = '{path}' is missing. Bring it back, or correct the path.")
    if (actual := sha256_file(path)) != sha256:
        raise UserError(f"{key}.sha256 is '{sha256}' but '{path}' has '{actual}'. Bring it back, or pin the new one.")


def domains_above(url: str) -> Iterator[str]:
    """Yield the domain of an address and those that it is part of."""
    labels = _host(url).partition(":")[0].split(".")
    for start in range(len(labels) - 1):
        yield ".".join(labels[start:])


def addresses_above(url: str) -> Iterator[str]:
    """Yield an address as lists have it, and the patterns of all folders that it is in."""
    if not _host(url):
        return
    address = _address(url)
    yield address
    path = address
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path + _BELOW


def _entry(line: str, kind: Kind, where: str) -> str:
    if kind == "urls" and ("://" not in line or not _host(line)):
        raise UserError(f"{where}: '{line}' is no address with a scheme, such as https://. Correct the line.")
    entry = {"ids": str.lower, "urls": _listed_address, "domains": _domain, "authors": _author}[kind](line)
    if (kind == "ids" and not _ID.fullmatch(entry)) or (kind == "domains" and not _DOMAIN.fullmatch(entry)):
        raise UserError(f"{where}: '{line}' is none of the {kind}. Correct the line.")
    return entry


def _listed_address(line: str) -> str:
    return _address(line.removesuffix(_BELOW)).rstrip("/") + _BELOW if line.endswith(_BELOW) else _address(line)


def _address(url: str) -> str:
    parts = _parts(url)
    return f"{_host(url)}{unquote(parts.path) or '/'}" + (f"?{unquote(parts.query)}" if parts.query else "")


def _host(url: str) -> str:
    """Return the host of an address in ASCII, with its port if that is not the scheme's own; empty if there is none."""
    try:
        parts = _parts(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        return ""
    return _ascii(host) + (f":{port}" if port not in (None, 80, 443) else "")


def _parts(url: str) -> SplitResult:
    """Return the parts of an address; one without a scheme begins with its host."""
    url = url.strip()
    return urlsplit(url if _SCHEME.match(url) else f"//{url}")


def _domain(line: str) -> str:
    return _ascii(line.lower().rstrip("."))


def _ascii(host: str) -> str:
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def _author(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _authors(names: str) -> set[str]:
    return {_author(name) for name in (names, *_BETWEEN_NAMES.split(names))}


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not valid utf-8 at byte {error.start}. Convert it.") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, stripped


def _robots(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (place in the file, address) of every robots.txt of a snapshot."""
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"'{path}:{number}' is not JSON: {error}. Correct the line.") from None
            if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("url", "text")):
                raise UserError(f"'{path}:{number}' is no object with the texts `url` and `text`. Correct the line.")
            yield place, row["url"]
            place += len(line)


def _rules_at(path: Path, place: int) -> "Protego":
    from protego import Protego

    with path.open("rb") as file:
        file.seek(place)
        text = json.loads(file.readline())["text"]
    return Protego.parse(text.removeprefix("\ufeff"))  # before a mark, protego does not see the first group
