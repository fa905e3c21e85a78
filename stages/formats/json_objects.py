"""JSON that is no table of lines: objects one after another, however they are broken into lines, or in one array."""

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from stages.errors import UserError
from stages.formats.encodings import decode
from stages.formats.row import Options, Row, read_whole
from stages.formats.tables import row_of

_SPACE = re.compile(r"[ \t\r\n]*")


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield a row an object, in order; the file is held in memory.

    Raises:
        UserError: It is too long, or not such JSON, or an object lacks the text column.
    """
    text, encoding = decode(read_whole(stream, name, options), name, options)
    for number, value in enumerate(_values(text, name), start=1):
        if not isinstance(value, dict):
            raise UserError(f"'{name}:{number}' is not a JSON object. Correct the file.")
        yield row_of(value, name, number, options)._replace(encoding=encoding)


def _values(text: str, name: str) -> Iterator[Any]:
    decoder, end = json.JSONDecoder(), _after_space(text, 0)
    while end < len(text):
        try:
            value, end = decoder.raw_decode(text, end)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"'{name}' is not JSON: {error}. Correct the file.") from None
        yield from value if isinstance(value, list) else (value,)
        end = _after_space(text, end)


def _after_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    assert found
    return found.end()
