"""Text that is taken as it is: .txt, .md, .rst and the like, and what `formats.plain` names, such as code."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from stages.formats.encodings import decode, known
from stages.formats.patterns import fits
from stages.formats.row import Options, Row, read_whole

_COOKIE = re.compile(rb"\A(?:[ \t\f]*(?:#[^\r\n]*)?\r?\n)?[ \t\f]*#[^\r\n]*?coding[:=][ \t]*([-\w.]+)")


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the file's text.

    Raises:
        UserError: It is too long, or its encoding can not be told.
    """
    data = read_whole(stream, name, options)
    declared = _COOKIE.match(data) if fits(options.settings.plain, name) else None
    text, encoding = decode(data, name, options, known(declared[1].decode("ascii")) if declared else None)
    yield Row("", text, encoding)
