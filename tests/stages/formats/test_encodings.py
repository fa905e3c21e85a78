import codecs

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import UserError
from tests.shared import shared
from tests.stages.formats.reading import rows

RUSSIAN = "Мой дядя самых честных правил, когда не в шутку занемог, он уважать себя заставил. "


@settings(deadline=None)  # the first call imports the format
@given(st.text(st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])))
def test_utf_8_is_read_as_it_is(text: str) -> None:
    (row,) = rows(text.encode(), "a.txt")
    assert (row.text, row.encoding) == (text, "utf-8")


@pytest.mark.parametrize(
    ("mark", "codec", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8", "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16"),
        (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32"),
    ],
)
def test_a_byte_order_mark_decides_and_is_no_text(mark: bytes, codec: str, encoding: str) -> None:
    (row,) = rows(mark + RUSSIAN.encode(codec), "a.txt")
    assert (row.text, row.encoding) == (RUSSIAN, encoding)


def test_what_the_source_says_wins() -> None:
    stated = {"*.txt": "latin-1", "/russian/": "koi8-r"}
    (row,) = rows(RUSSIAN.encode("koi8-r"), "russian/a.txt", encodings=stated)
    assert (row.text, row.encoding) == (RUSSIAN, "koi8-r")
    (row,) = rows(b"caf\xe9", "a.txt", encodings=stated)
    assert row.text == "café"


def test_a_declaration_in_html_is_believed_as_browsers_do() -> None:
    page = b'<html><head><meta charset="iso-8859-1"><title>t</title></head><body><p>\x93caf\xe9\x94</p></body></html>'
    (row,) = rows(page, "a.html", html="whole")
    assert (row.text, row.encoding) == ("“café”", "cp1252")


@pytest.mark.parametrize(
    "declared", ["utf-16", "UTF-16LE", "utf-32", "utf-7", "cp037", "unicode_escape", "idna", "hex"]
)
@pytest.mark.parametrize("head", ['<meta charset="{}">', '<?xml version="1.0" encoding="{}"?>'])
@pytest.mark.parametrize("end", ["", " "])
def test_a_declaration_that_could_not_be_read_in_its_own_encoding_is_passed_over(
    head: str, declared: str, end: str
) -> None:
    page = f"{head.format(declared)}<html><body><p>café +AGE- \\n</p></body></html>{end}"
    (row,) = rows(page.encode(), "a.html", html="whole")
    assert (row.text, row.encoding) == ("café +AGE- \\n", "utf-8")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ab\xff", r"'a\.txt' is not UTF-8, and its encoding can not be told \(candidates: .+`exclude`"),
        (b"ab\0c", r"'a\.txt' has a NUL character at 2, read as utf-8"),
        ("plain".encode("utf-16-le"), r"'a\.txt' has a NUL character at 1"),
    ],
)
def test_what_can_not_be_decided_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows(data, "a.txt")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("klingon", "'klingon', which Python does not know"),
        ("hex", "'hex', which Python does not know"),
        ("ascii", "not valid ascii at byte"),
    ],
)
def test_a_wrong_statement_is_an_error(encoding: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows(b"caf\xe9", "a.txt", encodings={"*": encoding})


def test_the_one_latin_1_book_is_read_and_named() -> None:
    books = shared("corpus") / "books" / "gutenberg"
    (path,) = books.rglob("1400-8.txt")
    (row,) = rows(path.read_bytes(), "1400-8.txt")
    assert row.encoding == "iso8859-1"
    assert row.text.encode("latin-1") == path.read_bytes()
    assert row.text.count("ô") == row.text.count("ê") == 1
