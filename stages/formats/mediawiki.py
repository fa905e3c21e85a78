"""MediaWiki's XML export: a row a page, streamed.

The wikitext of a page's last revision is made plain by mwparserfromhell: templates, tables of no text, references,
files and categories go, links leave their words. Of templates, whose definitions an export of articles lacks, those of
the English Wikipedia that quote, name a language or convert a measure leave their words too. A redirect and a page of
another namespace become no text but a row that says so. Versions 0.3 to 0.11 of the export are read alike; their
fields used here have never changed.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

import mwparserfromhell
from mwparserfromhell.nodes import Node, Tag, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

from stages.errors import UserError
from stages.formats.encodings import encoding_of
from stages.formats.row import Options, Row, check_length
from stages.formats.xml import Headed, stream_elements

_FILE, _CATEGORY = "6", "14"
_HIDDEN_TAGS = frozenset({"ref", "references", "gallery", "imagemap", "timeline"})
_QUOTES = frozenset({"quote", "blockquote", "quotation", "cquote"})
_MEASURES = frozenset({"convert", "cvt"})
_RANGES = frozenset({"to", "and", "or", "by", "x", "-", "\N{EN DASH}"})
_TEMPLATES = {  # those that stand for words of a sentence or are a paragraph, with the parameters that have them
    **dict.fromkeys(_QUOTES, ("1", "text", "quote")),
    **dict.fromkeys(_MEASURES, ("1", "2")),
    **dict.fromkeys(("lang", "script", "transl", "transliteration"), ("2",)),
    **dict.fromkeys(("nowrap", "nobr", "small", "nihongo"), ("1",)),
}


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
    code.nodes = _shown(code, hidden)
    return str(code.strip_code(collapse=True)).strip()


def _shown(code: Wikicode, hidden: frozenset[str]) -> list[Node]:
    """Return the nodes that have words; `Wikicode.remove` would search the whole page for each of the others."""
    return [shown for node in code.nodes for shown in _words(node, hidden)]


def _words(node: Node, hidden: frozenset[str]) -> list[Node]:
    if isinstance(node, Template):
        return _words_of_template(node, hidden)
    if isinstance(node, Wikilink):
        return [] if _name(node.title).partition(":")[0].strip() in hidden else [node]
    if isinstance(node, Tag):
        if _name(node.tag) in _HIDDEN_TAGS:
            return []
        if node.contents:
            node.contents.nodes = _shown(node.contents, hidden)
    return [node]


def _words_of_template(template: Template, hidden: frozenset[str]) -> list[Node]:
    name = _name(template.name)
    pieces = [_shown(template.get(key).value, hidden) for key in _parameters(template, name)]
    if name in _QUOTES:
        return [Text("\n\n"), *(pieces[0] if pieces else ()), Text("\n\n")]
    return [node for number, piece in enumerate(pieces) for node in ([Text(" ")] if number else []) + piece]


def _parameters(template: Template, name: str) -> list[str]:
    """Return the names of the parameters that have a template's words, of those that it has."""
    names = _TEMPLATES.get(name, ())
    if name in _MEASURES and template.has("2") and _name(template.get("2").value) in _RANGES:
        names = ("1", "2", "3", "4")
    return [key for key in names if template.has(key)]


def _name(code: Wikicode) -> str:
    return str(code).strip().lower()
