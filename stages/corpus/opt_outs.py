"""Who asked that a text should not be trained on: lists by id, address, domain and author, and robots.txt snapshots.

A list is a text file, an entry a line; blank lines and lines that begin with `#` are passed over. Entries are:

- ids: a document's id, 32 hex digits;
- urls: an address, matched whole but for its scheme and fragment; `https://example.org/wiki/*` also takes all below;
- domains: `example.org`, which also takes `www.example.org`;
- authors: a name, matched whole but for case and spaces.

A robots.txt snapshot is JSON lines, an object a host: `url` is the address of its robots.txt, `text` is what it held.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from stages.corpus.documents import Document
from stages.errors import UserError
from stages.files import read_jsonl, sha256_file

if TYPE_CHECKING:
    from protego import Protego

Kind = Literal["ids", "urls", "domains", "authors"]
Match = Callable[[Document], bool]

_ID = re.compile(r"[0-9a-f]{32}")
_DOMAIN = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")
_BELOW = "/*"


def listed(path: Path, kind: Kind) -> Match:
    """Return whether a document is on a list.

    Raises:
        UserError: The file is missing, or an entry is not of this kind.
    """
    entries = {_entry(line, kind, f"{path}:{number}") for number, line in _lines(path)}
    if kind == "ids":
        return lambda document: document.id in entries
    if kind == "authors":
        return lambda document: _author(document.author) in entries
    above = domains_above if kind == "domains" else addresses_above
    return lambda document: not entries.isdisjoint(above(document.url))


def forbidden(path: Path, user_agents: tuple[str, ...]) -> Match:
    """Return whether the robots.txt of a document's host, as the snapshot has it, keeps one of the agents out.

    A document without an address, or of a host that the snapshot lacks, is not kept out.

    Raises:
        UserError: The file is missing, or is not such a snapshot.
    """
    files: dict[str, str] = {}
    for row in _rows(path):
        if not isinstance(row.get("url"), str) or not isinstance(row.get("text"), str):
            raise UserError(f"'{path}' has a row without the texts `url` and `text`. Correct it.")
        files[_host(row["url"])] = row["text"]

    @lru_cache(maxsize=1024)
    def rules(host: str) -> "Protego | None":
        from protego import Protego

        return Protego.parse(files[host]) if host in files else None

    def is_forbidden(document: Document) -> bool:
        found = rules(_host(document.url)) if document.url else None
        return found is not None and not all(found.can_fetch(document.url, agent) for agent in user_agents)

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
    if not url:
        return
    address = _address(url)
    yield address
    path = address
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path + _BELOW


def _entry(line: str, kind: Kind, where: str) -> str:
    entry = {"ids": str.lower, "urls": _listed_address, "domains": _domain, "authors": _author}[kind](line)
    if (kind == "ids" and not _ID.fullmatch(entry)) or (kind == "domains" and not _DOMAIN.fullmatch(entry)):
        raise UserError(f"{where}: '{line}' is none of the {kind}. Correct the line.")
    if kind == "urls" and "://" not in line:
        raise UserError(f"{where}: '{line}' is no address with a scheme, such as https://. Correct the line.")
    return entry


def _listed_address(line: str) -> str:
    return _address(line.removesuffix(_BELOW)).rstrip("/") + _BELOW if line.endswith(_BELOW) else _address(line)


def _address(url: str) -> str:
    parts = urlsplit(url)
    return f"{_host(url)}{parts.path or '/'}" + (f"?{parts.query}" if parts.query else "")


def _host(url: str) -> str:
    """Return the host of an address in ASCII, with its port if that is not the scheme's own; empty if there is none."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:  # a port that is no number, a bracket that is not closed
        return ""
    return _ascii(host) + (f":{port}" if port not in (None, 80, 443) else "")


def _domain(line: str) -> str:
    return _ascii(line.lower().rstrip("."))


def _ascii(host: str) -> str:
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def _author(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"'{path}' is not valid utf-8 at byte {error.start}. Convert it.") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if (stripped := line.strip()) and not stripped.startswith("#"):
            yield number, stripped


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from read_jsonl(path)
    except ValueError as error:
        raise UserError(f"'{path}' is not JSON lines: {error}. Correct it.") from None
