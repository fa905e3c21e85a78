"""LaTeX as text, by pylatexenc: macros are replaced by what they print, as far as LaTeX itself defines them.

What a document defines itself is not expanded, and no other file is read for `input` or `include`. Text before
`begin{document}` sets up the page and is left out.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, BinaryIO

from pylatexenc import latex2text, latexwalker  # type: ignore[import-untyped]  # it ships no types
from pylatexenc.latex2text import (  # type: ignore[import-untyped]  # as above
    EnvironmentTextSpec,
    LatexNodes2Text,
    MacroTextSpec,
)
from pylatexenc.macrospec import (  # type: ignore[import-untyped]  # as above
    EnvironmentSpec,
    MacroSpec,
    ParsedVerbatimArgs,
    std_macro,
)

from stages.formats.encodings import decode
from stages.formats.row import Options, Row, damaged, read_whole

_CODE = ("verbatim", "verbatim*", "Verbatim", "lstlisting", "minted")  # environments printed as they are written
_OPTION = r"\[(?:\{[^{}]*\}|[^]{])*\]"
_OPTIONS = {"Verbatim": _OPTION, "lstlisting": _OPTION, "minted": rf"(?:{_OPTION})?\{{[^{{}}]*\}}"}  # not printed
_VERB = re.compile(r"\*?\s*(?P<mark>\S)(?P<code>.*?)(?P=mark)")
_BEGIN = re.compile(r"^(?:[^%\\\n]|\\(?!begin ?\{document\}).)*?\\begin ?\{document\}", re.MULTILINE)
_END = re.compile(  # or something else that may hold these characters: a remark, code, or an escaped character
    r"(?P<end>\\end ?\{document\})|%.*"
    r"|\\verb\*?(?P<mark>[!-)+-/:-@[-`{|}~]).*?(?P=mark)"
    rf"|\\begin ?\{{(?P<code>{'|'.join(map(re.escape, _CODE))})\}}(?s:.*?)(?:\\end\{{(?P=code)\}}|\Z)"
    r"|\\."
)
_SILENT = (
    "input",
    "include",
    "cite",
    "citep",
    "citet",
    "ref",
    "eqref",
    "autoref",
    "cref",
    "Cref",
    "label",
    "includegraphics",
)
_FONTS = ("texttt", "textsf", "textup", "textmd", "mbox")  # those whose words pylatexenc leaves out
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
    body = _body(_ADDRESS.sub(lambda found: _PERCENT.sub(r"\\%", found[0]), source))
    converter = LatexNodes2Text(_macros(), math_mode=options.settings.latex_math, keep_comments=False)
    try:
        text = converter.latex_to_text(body, tolerant_parsing=True, latex_context=_grammar())
    except (latexwalker.LatexWalkerError, RecursionError) as error:
        raise damaged(name, error) from None
    return _BLANK_LINES.sub("\n\n", text).strip()


def _body(source: str) -> str:
    """Return what stands in a source's document environment, or all of it where it has none."""
    begin = _BEGIN.search(source)
    if begin is None:
        return source
    end = next((found for found in _END.finditer(source, begin.end()) if found["end"]), None)
    return source[begin.end() : end.start() if end else None]


class _Code:
    """Reads an environment as it is written; pylatexenc's own reader knows but the name `verbatim`."""

    def __init__(self, name: str) -> None:
        """Read the environment of this name."""
        self._end = f"\\end{{{name}}}"
        self._options = re.compile(_OPTIONS.get(name, ""))

    def parse_args(self, w: Any, pos: int, parsing_state: Any = None) -> tuple[Any, int, int]:
        """Return the code after the options that begin at `pos`, where it is, and how long; open code to the end."""
        end = w.s.find(self._end, pos)
        end = len(w.s) if end < 0 else end
        options = self._options.match(w.s, pos, end)
        return _written(w, options.end() if options else pos, end, parsing_state), pos, end - pos


class _Verb:
    """Reads what follows `verb`; pylatexenc's own reader takes the star of `verb*` for a mark, and fails at the end."""

    def parse_args(self, w: Any, pos: int, parsing_state: Any = None) -> tuple[Any, int, int]:
        """Return the code between two marks, where it is, and how long; none where the line has but one mark."""
        found = _VERB.match(w.s, pos)
        start, end = found.span("code") if found else (pos, pos)
        return _written(w, start, end, parsing_state), pos, found.end() - pos if found else 0


def _written(walker: Any, start: int, end: int, parsing_state: Any) -> Any:
    """Return the source between two places as pylatexenc's code."""
    place = {"pos": start, "len": end - start, "parsing_state": parsing_state}
    return ParsedVerbatimArgs(walker.make_node(latexwalker.LatexCharsNode, chars=walker.s[start:end], **place))


@cache
def _grammar() -> Any:
    """Return pylatexenc's grammar, and that of the links and the code it does not know."""
    grammar = latexwalker.get_default_latex_context_db()
    macros = [std_macro("href", False, 2), MacroSpec("verb", _Verb())]
    code = [EnvironmentSpec(name, _Code(name)) for name in _CODE]
    grammar.add_context_category("openbase", prepend=True, macros=macros, environments=code)
    return grammar


@cache
def _macros() -> Any:
    """Return what pylatexenc prints for macros, less what reads other files or prints a placeholder, and code."""
    macros = latex2text.get_default_latex_context_db()
    printed = {"href": "%(2)s", "verb": _code} | dict.fromkeys(_FONTS, "%s") | dict.fromkeys(_SILENT, "")
    code = [EnvironmentTextSpec(name, _code) for name in _CODE]
    specs = [MacroTextSpec(name, text) for name, text in printed.items()]
    macros.add_context_category("openbase", prepend=True, macros=specs, environments=code)
    return macros


def _code(node: Any) -> str:
    """Return the code that a macro or an environment holds."""
    return str(node.nodeargd.verbatim_text)
