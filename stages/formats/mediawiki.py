"""MediaWiki's XML export: a row a page, streamed.

The wikitext of a page's last revision is made plain by mwparserfromhell: templates, tables of no text, references,
files and categories go, links leave their words. A redirect and a page of another namespace become no text but a row
that says so. Versions 0.3 to 0.11 of the export are read alike; their fields used here have never changed.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import mwparserfromhell
from mwparserfromhell.nodes import Node, Tag, Wikilink

from stages.errors import UserError
from stages.formats.encodings import encoding_of
from stages.formats.row import Options, Row, check_length
from stages.formats.xml import Headed, stream_elements

_FILE, _CATEGORY = "6", "14"
_HIDDEN_TAGS = frozenset({"ref", "references", "gallery", "imagemap", "timeline"})


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the pages; their columns are `title`, `namespace`, `revision`, and `timestamp`.

    Raises:
        UserError: The file is damaged, is no export, or a page is too long.
    """
    hidden: frozenset[str] = frozenset()
    is_export, number = False, 0
    headed = Headed(stream)
    encoding = encoding_of(headed.head)
    for element in stream_elements(headed, name, ("siteinfo", "page")):
        is_export = True
        if element.tag.endswith("siteinfo"):
            hidden = _names(element, (_FILE, _CATEGORY))
            continue
        number += 1
        yield _page(element, name, number, hidden, options)._replace(encoding=encoding)
    if not is_export:
        raise UserError(f"'{name}' is XML but no MediaWiki export. Add it to the source's `exclude`.")


def _page(page: Any, name: str, number: int, hidden: frozenset[str], options: Options) -> Row:
    revision = page.findall("{*}revision")[-1:]
    namespace = page.findtext("{*}ns", "0")
    columns = {"title": page.findtext("{*}title", ""), "namespace": namespace}
    for field, column in (("id", "revision"), ("timestamp", "timestamp")):
        columns[column] = revision[0].findtext(f"{{*}}{field}", "") if revision else ""
    place = f":{page.findtext('{*}id') or number}"
    wikitext = (revision[0].findtext("{*}text") or "") if revision else ""
    problem = _problem(page, namespace, wikitext, options)
    if problem:
        return Row(place, "", columns=columns, problem=problem)
    check_length(len(wikitext), name + place, options)
    text = plain(wikitext, hidden)
    return Row(place, text, columns=columns, problem=None if text else "no_text")


def _problem(page: Any, namespace: str, wikitext: str, options: Options) -> str | None:
    if int(namespace) not in options.settings.namespaces:
        return f"namespace_{namespace}"
    if page.find("{*}redirect") is not None:
        return "redirect"
    return None if wikitext.strip() else "no_text"


def _names(siteinfo: Any, keys: tuple[str, ...]) -> frozenset[str]:
    """Return the names of namespaces on this wiki, in lower case, and their English ones."""
    found = (each.text for each in siteinfo.iterfind("{*}namespaces/{*}namespace") if each.get("key") in keys)
    return frozenset({"file", "image", "category", *(text.lower() for text in found if text)})


def plain(wikitext: str, hidden: frozenset[str]) -> str:
    """Return the words of a wikitext; links to a namespace in `hidden` are left out with their captions."""
    code = mwparserfromhell.parse(wikitext)
    code.nodes = [node for node in code.nodes if not _is_hidden(node, hidden)]  # `remove` searches the whole page
    return str(code.strip_code(collapse=True)).strip()


def _is_hidden(node: Node, hidden: frozenset[str]) -> bool:
    if isinstance(node, Tag):
        return str(node.tag).strip().lower() in _HIDDEN_TAGS
    return isinstance(node, Wikilink) and str(node.title).partition(":")[0].strip().lower() in hidden
