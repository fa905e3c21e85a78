"""CNXML, the markup of OpenStax's books, as text: its own small mapping, since no kept library reads it.

Titles and paragraphs are lines of their own, blank lines between them; items of a list begin with `- `; cells of a
table are divided by tabs; MathML is written in a line, `a/b`, `a^b`, `a_b`. Media leave their captions and, where
there is none, nothing: a description for those who do not see the picture is no part of the running text.

Source: the CNXML 0.8 schema, https://github.com/openstax/cnxml.
"""

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from lxml import etree  # type: ignore[import-untyped]  # it ships no types

from stages.formats.encodings import encoding_of
from stages.formats.row import Options, Row, read_whole
from stages.formats.xml import parse

_LEFT_OUT = frozenset({"metadata", "media", "image", "iframe", "annotation", "annotation-xml"})
_BLOCKS = frozenset(
    {"caption", "code", "content", "definition", "document", "equation", "example", "exercise", "figure", "glossary"}
    | {"item", "list", "meaning", "note", "para", "problem", "proof", "quote", "row", "rule", "section", "solution"}
    | {"statement", "table", "title"}
)
_BETWEEN = {"mfrac": "/", "msup": "^", "sup": "^", "msub": "_", "sub": "_"}
_BLANKS, _SPACES = re.compile(r"\s*\n\s*\n\s*"), re.compile(r"[^\S\n]*\n[^\S\n]*|[^\S\t\n]+")


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the module's text, with its `title` and `id`.

    Raises:
        UserError: It is too long or not well-formed.
    """
    data = read_whole(stream, name, options)
    root = parse(data, name)
    columns = {"title": root.findtext("{*}title", ""), "id": root.findtext(".//{*}content-id", "")}
    text = plain(root)
    yield Row("", text, encoding_of(data), columns, None if text else "no_text")


def plain(root: Any) -> str:
    """Return the text of an element and all in it."""
    return _BLANKS.sub("\n\n", "".join(_pieces(root))).strip()


def _pieces(element: Any) -> Iterator[str]:
    if not isinstance(element.tag, str):
        return
    tag = etree.QName(element).localname
    if tag in _LEFT_OUT:
        return
    opening, closing = _around(tag)
    yield opening
    yield _squeezed(element.text, tag)
    for number, child in enumerate(element):
        if number == 1:
            yield _BETWEEN.get(tag, "")
        yield from _pieces(child)
        yield _squeezed(child.tail, tag)
    yield closing


def _around(tag: str) -> tuple[str, str]:
    if tag == "item":
        return "\n\n- ", "\n\n"
    if tag == "entry":
        return "", "\t"
    if tag in ("sup", "sub"):
        return _BETWEEN[tag], ""
    return ("\n\n", "\n\n") if tag in _BLOCKS else ("", "")


def _squeezed(text: str | None, tag: str) -> str:
    if not text or tag == "code":
        return text or ""
    return _SPACES.sub(" ", text)
