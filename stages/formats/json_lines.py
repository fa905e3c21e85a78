"""JSON lines: an object a line, in UTF-8."""

import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from stages.errors import UserError
from stages.formats.row import Options, Row, check_length
from stages.formats.tables import row_of


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the rows in order; blank lines are passed over.

    Raises:
        UserError: A line is not a JSON object, lacks the text column, or is too long.
    """
    number = 0
    limit = 2 * options.settings.max_text_bytes  # as it is escaped, and beside other columns
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit:
            check_length(len(line), f"{name}:{number}", options)
        if line.strip():
            yield row_of(_object(line, f"{name}:{number}"), name, number, options)


def _object(line: bytes, origin: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"'{origin}' is not valid utf-8 at byte {error.start}. Correct the line.") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"'{origin}' is not JSON: {error}. Correct the line.") from None
    if not isinstance(row, dict):
        raise UserError(f"'{origin}' is not a JSON object. Correct the line.")
    return row
