"""What tables have in common: a row's cells, and what becomes of one that holds no text."""

from collections.abc import Iterable, Mapping
from typing import Any

from stages.errors import UserError
from stages.formats.row import Options, Row, check_length, problem_of


def row_of(cells: Mapping[str, Any], name: str, number: int, options: Options) -> Row:
    """Return a row of a table; `number` counts from 1.

    Raises:
        UserError: It lacks a column, is too long, or holds no text and `bad_rows` is `stop`.
    """
    place = f":{number}"
    column = options.text_column
    check_columns(cells, name + place, options)
    text = cells[column]
    others = {key: cells[key] for key in options.columns}
    if problem := problem_of(text):
        if options.settings.bad_rows == "stop":
            raise UserError(
                f"'{name}{place}': column '{column}' holds {text!r:.80}: {problem.replace('_', ' ')}. Correct the row, "
                "or set the source's `formats.bad_rows` to refuse."
            )
        return Row(place, "", "utf-8", others, problem)
    check_length(len(text), name + place, options)
    return Row(place, text, "utf-8", others)


def check_columns(names: Iterable[str], origin: str, options: Options) -> None:
    """Check that a table has every column that is asked for.

    Raises:
        UserError: It lacks one.
    """
    has = list(names)
    for column in (options.text_column, *options.columns):
        if column not in has:
            raise UserError(
                f"'{origin}' has no column '{column}'; it has {', '.join(map(repr, has)) or 'none'}. Correct the "
                "source's columns."
            )
