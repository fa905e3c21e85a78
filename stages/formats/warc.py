"""WARC and WET, by FastWARC: a row a record.

Of a WARC, the records of type `response` and `resource` that hold HTML or plain text; of a WET, those of type
`conversion`. Another media type, a failed request and a page without text become rows that say so; records of other
types, which describe the crawl, are passed over.
"""

from collections.abc import Iterator
from typing import Any, BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecordType

from stages.errors import UserError
from stages.formats import html
from stages.formats.encodings import declared_in, decode, known
from stages.formats.row import Options, Row, check_length, damaged

_TYPES = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion
_HTML = ("text/html", "application/xhtml+xml")
_REQUIRED = ("WARC-Type", "WARC-Record-ID", "WARC-Date", "Content-Length")
_OK = 200


def read(stream: BinaryIO, name: str, options: Options) -> Iterator[Row]:
    """Yield the pages; their columns are `url`, `date`, `record`, and of HTML `title`.

    Raises:
        UserError: The file is damaged, or a page is too long.
    """
    number = 0
    try:
        reader: Any = _Forward(stream)  # FastWARC's types ask for a `seek` that it does without
        for record in ArchiveIterator(reader, record_types=WarcRecordType.any_type, parse_http=False):
            number += 1
            block = _block(record, name, number, options)
            if record.record_type & _TYPES:
                yield _row(record, block, name, number, options)
    except OSError as error:
        raise damaged(name, error) from None


class _Forward:
    """A stream that is only read on: what FastWARC finds a `seek` on, it seeks in, and decompressed streams cannot."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._position = stream, 0

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self._position += len(data)
        return data

    def tell(self) -> int:
        return self._position


def _block(record: Any, name: str, number: int, options: Options) -> bytes:
    """Return the record's bytes; FastWARC takes what a file that was cut short still has for the whole of it."""
    if missing := [field for field in _REQUIRED if field not in record.headers]:
        raise damaged(f"{name}:{number}", f"record without {', '.join(missing)}")
    check_length(record.content_length, f"{name}:{number}", options)
    block: bytes = record.reader.read(record.content_length)
    if len(block) != record.content_length:
        raise damaged(f"{name}:{number}", f"{len(block)} bytes of {record.content_length}")
    return block


def _row(record: Any, block: bytes, name: str, number: int, options: Options) -> Row:
    headers = record.headers
    columns = {"url": headers.get("WARC-Target-URI", "").strip("<>"), "date": headers["WARC-Date"]}
    columns["record"] = headers["WARC-Record-ID"]
    place = f":{number}"
    media, charset, status = headers.get("Content-Type", "").partition(";")[0].strip(), None, _OK
    if media == "application/http":
        record.set_bytes_content(block)
        record.parse_http(auto_decode="all")
        status, media, charset = record.http_headers.status_code, record.http_content_type or "", record.http_charset
        block = record.reader.read(options.settings.max_text_bytes + 1)
        check_length(len(block), name + place, options)
    if problem := _problem(status, media, block):
        return Row(place, "", "utf-8", columns, problem)
    return _page(block, media, charset, f"{name}{place}", options)._replace(place=place, columns=columns)


def _problem(status: int | None, media: str, block: bytes) -> str | None:
    if status != _OK:
        return f"status_{status}"
    if media.lower() not in (*_HTML, "text/plain"):
        return "media_type"
    return None if block.strip() else "no_text"


def _page(block: bytes, media: str, charset: str | None, origin: str, options: Options) -> Row:
    """Return the text of a page; what can not be decoded is a row that says so: a crawl is full of such."""
    declared = (known(charset) if charset else None) or declared_in(block)
    try:
        text, encoding = decode(block, origin, options, declared)
    except UserError:
        if options.settings.bad_rows == "stop":
            raise
        return Row("", "", "utf-8", {}, "encoding_unknown")
    if media.lower() in _HTML:
        return html.row_of(text, encoding, "", options)
    return Row("", text, encoding)
