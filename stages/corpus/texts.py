"""The texts of a source's files, with what its settings and columns say of each."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.corpus.candidates import Candidate
from stages.corpus.license_map import of_column
from stages.corpus.licenses import License, stated
from stages.corpus.sources import Texts, UrlSource
from stages.errors import UserError
from stages.formats import formats
from stages.formats.row import Options, Row, problem_of

SEPARATOR = "; "


def of_file(source: Texts, path: Path, name: str) -> Iterator[Candidate]:
    """Yield the texts of a file whose name in the source, which says its format, is `name`.

    Raises:
        UserError: The file is damaged or hostile, or its rows are not as the source says.
    """
    wanted = (source.license_column, source.url_column, source.author_column)
    options = Options(source.formats, source.text_column, tuple(dict.fromkeys(filter(None, wanted))))
    with path.open("rb") as stream:
        for row in formats.rows(stream, name, options):
            yield _candidate(source, f"{name}{row.place}", row)


def _candidate(source: Texts, origin: str, row: Row) -> Candidate:
    return Candidate(
        row.text,
        origin,
        _license(source, row.columns, origin),
        url=_fact(source.url_column, "url", row.columns, origin) or _address(source, origin),
        author=_fact(source.author_column, "author", row.columns, origin),
        encoding=row.encoding,
        problem=row.problem,
    )


def _license(source: Texts, columns: Mapping[str, Any], origin: str) -> License:
    if source.license_column is None:
        return stated(source.license)
    value = _cell(columns, source.license_column, origin, "Give the source's `license` instead.")
    _check_texts([value] if isinstance(value, str) else [], source.license_column, origin)
    return of_column(value, f"'{origin}', column '{source.license_column}'")


def _address(source: Texts, origin: str) -> str:
    """Return the address of a file that is one text, if the source has it from there; a path of a machine is none."""
    url = source.files[origin].url if isinstance(source, UrlSource) and origin in source.files else ""
    return "" if url.lower().startswith("file:") else url


def _fact(column: str | None, default: str, columns: Mapping[str, Any], origin: str) -> str:
    """Return what a column says, or what the format itself knows, as a WARC does of its pages' addresses.

    Of a cell with several texts, such as authors, all are said.
    """
    value = columns.get(default) if column is None else _cell(columns, column, origin, "Correct the source's columns.")
    parts = value if isinstance(value, list) else [] if value is None else [value]
    _check_texts(parts, column or default, origin)
    return SEPARATOR.join(parts)


def _check_texts(cells: Iterable[object], column: str, origin: str) -> None:
    for cell in cells:
        if problem := problem_of(cell):
            raise UserError(
                f"'{origin}', column '{column}' holds {cell!r:.80}: {problem.replace('_', ' ')}. Correct it, or name "
                "another column."
            )


def _cell(columns: Mapping[str, Any], column: str, origin: str, remedy: str) -> Any:
    if column not in columns:
        has = ", ".join(map(repr, columns)) or "no columns"
        raise UserError(f"'{origin}' has no column '{column}'; it has {has}. {remedy}")
    return columns[column]
