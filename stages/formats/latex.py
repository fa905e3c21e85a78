"""LaTeX as text, by pylatexenc: macros are replaced by what they print, as far as LaTeX itself defines them.

What a document defines itself is not expanded, and no other file is read for `input` or `include`. Text before
`begin{document}` sets up the page and is left out.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO

from pylatexenc.latex2text import (  # type: ignore[import-untyped]  # it ships no types
    LatexNodes2Text,
    MacroTextSpec,
    get_default_latex_context_db,
)
from pylatexenc.latexwalker import LatexWalkerError  # type: ignore[import-untyped]  # as above

from stages.formats.encodings import decode
from stages.formats.row import Options, Row, damaged, read_whole

_BEGIN, _END = "\\begin{document}", "\\end{document}"
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the file's text.

    Raises:
        UserError: It is too long, its encoding can not be told, or its groups are not closed.
    """
    source, encoding = decode(read_whole(stream, name, options), name, options)
    text = plain(source, name, options)
    yield Row("", text, encoding, {}, None if text else "no_text")


def plain(source: str, name: str, options: Options) -> str:
    """Return what a LaTeX source prints, formulas as `latex_math` says."""
    body = source.partition(_BEGIN)[2].partition(_END)[0] if _BEGIN in source else source
    converter = LatexNodes2Text(_context(), math_mode=options.settings.latex_math, keep_comments=False)
    try:
        text = converter.latex_to_text(body, tolerant_parsing=True)
    except (LatexWalkerError, RecursionError) as error:
        raise damaged(name, error) from None
    return _BLANK_LINES.sub("\n\n", text).strip()


def _last_argument(node: Any, l2tobj: Any) -> str:
    """Return the words of a link; pylatexenc's own rule fails if a `%` in the address hides them."""
    given = [argument for argument in node.nodeargd.argnlist if argument is not None]
    return str(l2tobj.nodelist_to_text(given[-1:]))


@cache
def _context() -> Any:
    """Return pylatexenc's macros, less those that would read other files or print placeholders."""
    context = get_default_latex_context_db()
    silent = [MacroTextSpec(name, "") for name in ("input", "include", "cite", "citep", "citet", "ref", "label")]
    links = [MacroTextSpec("href", _last_argument)]
    context.add_context_category("openbase", prepend=True, macros=[*silent, *links])
    return context
