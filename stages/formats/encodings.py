"""Bytes to text, with the name of the encoding: nothing is replaced, and what can not be decided is an error."""

import codecs
import re

from stages.errors import UserError
from stages.formats.patterns import fits
from stages.formats.row import Options

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_XML = re.compile(rb"""^\s*<\?xml[^>]*?\bencoding\s*=\s*["']([A-Za-z0-9._:-]+)""")
_META = re.compile(rb"""<meta\b[^>]*?\bcharset\s*=\s*["']?\s*([A-Za-z0-9._:-]+)""", re.IGNORECASE)
_ASCII = b"+AGE-"  # UTF-16, UTF-32, EBCDIC and UTF-7, where it is an "a", read something else in it
_NOTATIONS = frozenset({"idna", "punycode", "raw-unicode-escape", "unicode-escape"})  # Python's, of names and literals
_HEAD_BYTES = 1024  # where HTML's `prescan` looks for a declaration
_WEB = {"iso8859-1": "cp1252", "ascii": "cp1252"}  # what these names mean in HTML (WHATWG Encoding, section 4.2)
_UTF_8 = ("utf-8", "utf-8-sig")


def decode(data: bytes, name: str, options: Options, declared: str | None = None) -> tuple[str, str]:
    """Return the text and the name of its encoding; line ends stay as they are.

    The encoding is what the source's `encodings` say, else the byte order mark, else `declared`, else UTF-8, else
    what charset-normalizer detects.

    Raises:
        UserError: The bytes are not in the stated encoding, no encoding can be told, or the text has NUL characters.
    """
    text, encoding = _stated(data, name, options) or _told(data, declared) or _detected(data, name)
    if "\0" in text:
        raise UserError(
            f"'{name}' has a NUL character at {text.index(chr(0))}, read as {encoding}: it is no text, or in another "
            "encoding. Give its encoding in the source's `formats.encodings`, or add it to `exclude`."
        )
    return text, encoding


def encoding_of(data: bytes) -> str:
    """Return the encoding in which a parser of XML reads a document that begins so."""
    return (_marked(data) or declared_in(data) or "utf-8").removesuffix("-sig")


def declared_in(data: bytes) -> str | None:
    """Return the encoding that an XML declaration or an HTML `meta` names, by Python's name, or None.

    One that is not written in ASCII's bytes is None, as it is here: the declaration itself was read as ASCII.
    """
    head = data[:_HEAD_BYTES]
    if found := _XML.search(head):
        return _extending_ascii(found[1])
    if found := _META.search(head):
        encoding = _extending_ascii(found[1])
        return _WEB.get(encoding, encoding) if encoding else None
    return None


def known(label: str) -> str | None:
    """Return Python's name of an encoding of text, or None if Python has no such one."""
    try:
        found = codecs.lookup(label)
        "a".encode(label)  # refuses a codec that is none of text, such as `hex`
    except (LookupError, ValueError):
        return None
    return None if found.name in _NOTATIONS else found.name


def _marked(data: bytes) -> str | None:
    return next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)


def _extending_ascii(label: bytes) -> str | None:
    encoding = known(label.decode("ascii"))
    return encoding if encoding and _ASCII.decode(encoding, "replace") == _ASCII.decode("ascii") else None


def _stated(data: bytes, name: str, options: Options) -> tuple[str, str] | None:
    fitting = [encoding for pattern, encoding in options.settings.encodings.items() if fits([pattern], name)]
    if not fitting:
        return None
    if (encoding := known(fitting[-1])) is None:
        raise UserError(
            f"formats.encodings has '{fitting[-1]}', which Python does not know as an encoding of text. Correct it."
        )
    try:
        return data.decode("utf-8-sig" if encoding == "utf-8" else encoding), encoding
    except UnicodeDecodeError as error:
        raise UserError(
            f"'{name}' is not valid {encoding} at byte {error.start}. Correct the source's `formats.encodings`, or "
            "add it to `exclude`."
        ) from None


def _told(data: bytes, declared: str | None) -> tuple[str, str] | None:
    for encoding in (_marked(data), declared, "utf-8"):
        if encoding is not None:
            try:
                return data.decode(encoding), encoding.removesuffix("-sig")
            except UnicodeDecodeError:
                continue
    return None


def _detected(data: bytes, name: str) -> tuple[str, str]:
    from charset_normalizer import from_bytes  # it takes long to import, and few files need it

    found = list(from_bytes(data))
    texts = {str(match) for match in found}
    if len(texts) != 1:
        names = ", ".join(sorted(match.encoding for match in found)) or "none"
        raise UserError(
            f"'{name}' is not UTF-8, and its encoding can not be told (candidates: {names}). Give it in the source's "
            "`formats.encodings`, or add it to `exclude`."
        )
    return found[0].raw.decode(found[0].encoding), known(found[0].encoding) or found[0].encoding
