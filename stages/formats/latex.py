"""LaTeX as text, by pylatexenc: macros are replaced by what they print, as far as LaTeX itself defines them.

What a document defines itself is not expanded, and no other file is read for `input` or `include`. Text before
`begin{document}` sets up the page and is left out.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO

from pylatexenc import latex2text, latexwalker  # type: ignore[import-untyped]  # it ships no types
from pylatexenc.latex2text import LatexNodes2Text, MacroTextSpec  # type: ignore[import-untyped]  # as above
from pylatexenc.macrospec import std_macro  # type: ignore[import-untyped]  # as above

from stages.formats.encodings import decode
from stages.formats.row import Options, Row, damaged, read_whole

_BEGIN, _END = "\\begin{document}", "\\end{document}"
_ADDRESS = re.compile(r"\\(?:href|url|nolinkurl)\s*\{[^{}\n]*\}")
_PERCENT = re.compile(r"(?<!\\)%")  # begins no remark in an address, though pylatexenc takes it for one
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
    body = _ADDRESS.sub(lambda found: _PERCENT.sub(r"\\%", found[0]), body)
    converter = LatexNodes2Text(_macros(), math_mode=options.settings.latex_math, keep_comments=False)
    try:
        text = converter.latex_to_text(body, tolerant_parsing=True, latex_context=_grammar())
    except (latexwalker.LatexWalkerError, RecursionError) as error:
        raise damaged(name, error) from None
    return _BLANK_LINES.sub("\n\n", text).strip()


@cache
def _grammar() -> Any:
    """Return pylatexenc's grammar, and that of the links it does not know."""
    grammar = latexwalker.get_default_latex_context_db()
    grammar.add_context_category("openbase", prepend=True, macros=[std_macro("href", False, 2)])
    return grammar


@cache
def _macros() -> Any:
    """Return what pylatexenc prints for macros, less what reads other files or prints a placeholder."""
    macros = latex2text.get_default_latex_context_db()
    silent = [MacroTextSpec(name, "") for name in ("input", "include", "cite", "citep", "citet", "ref", "label")]
    macros.add_context_category("openbase", prepend=True, macros=[*silent, MacroTextSpec("href", "%(2)s")])
    return macros
