"""Reads bytes as a file of a name."""

import io
from typing import Any

from stages.formats import formats
from stages.formats.row import Options, Row
from stages.formats.settings import FormatSettings


def rows(data: bytes, name: str, columns: tuple[str, ...] = (), **settings: Any) -> list[Row]:
    return list(formats.rows(io.BytesIO(data), name, Options(FormatSettings(**settings), columns=columns)))


def text(data: bytes, name: str, **settings: Any) -> str:
    (row,) = rows(data, name, **settings)
    assert row.problem is None
    return row.text
