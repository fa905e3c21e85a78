"""Text that is taken as it is: .txt, .md, .rst and the like."""

from collections.abc import Iterator
from typing import BinaryIO

from stages.formats.encodings import decode
from stages.formats.row import Options, Row, read_whole


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the file's text.

    Raises:
        UserError: It is too long, or its encoding can not be told.
    """
    text, encoding = decode(read_whole(stream, name, options), name, options)
    yield Row("", text, encoding)
