import bz2
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import UserError
from stages.formats import formats
from stages.formats.row import Options
from stages.formats.settings import FormatSettings
from tests.stages.formats.reading import rows, text

LINES = "".join(json.dumps({"text": f"Row {number}: café", "license": "MIT"}) + "\n" for number in range(500)).encode()
PACKED = {
    ".gz": gzip.compress(LINES[:9000], mtime=0) + gzip.compress(LINES[9000:], mtime=0),
    ".zst": zstandard.compress(LINES[:9000]) + zstandard.compress(LINES[9000:]),
    ".bz2": bz2.compress(LINES[:9000]) + bz2.compress(LINES[9000:]),
}


def parquet(texts: list[str], compression: str = "snappy") -> bytes:
    file = io.BytesIO()
    columns = {"text": pa.array(texts, pa.string()), "license": ["MIT"] * len(texts), "other": [1] * len(texts)}
    pq.write_table(pa.table(columns), file, compression=compression)
    return file.getvalue()


@settings(deadline=None)  # the first call imports the formats
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=5))
def test_tables_give_their_texts_back(texts: list[str]) -> None:
    lines = "".join(json.dumps({"text": each}) + "\n" for each in texts).encode()
    assert [row.text for row in rows(lines, "a.jsonl")] == texts
    assert [row.text for row in rows(parquet(texts), "a.parquet")] == texts


def test_a_row_has_its_place_and_the_columns_asked_for() -> None:
    (_, second) = rows(parquet(["one", "two"]), "a.parquet", ("license",))
    assert (second.place, second.text, second.columns) == (":2", "two", {"license": "MIT"})
    assert rows(b'{"text": "a", "n": 1, "m": 2}\n\n', "a.jsonl", ("n",))[0].columns == {"n": 1}


@pytest.mark.parametrize(("data", "name"), [(parquet(["a"]), "a.parquet"), (b'{"text": "a", "license": 1}', "a.jsonl")])
def test_every_column_that_is_asked_for_must_be_there(data: bytes, name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}.*' has no column 'author'; it has 'text', 'license'"):
        rows(data, name, ("license", "author"))


def test_a_column_that_is_not_asked_for_is_not_read() -> None:
    data = bytearray(parquet(["one", "two"]))
    other = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(2)
    start = other.dictionary_page_offset or other.data_page_offset
    data[start : start + other.total_compressed_size] = b"\xff" * other.total_compressed_size
    assert [row.text for row in rows(bytes(data), "a.parquet", ("license",))] == ["one", "two"]
    with pytest.raises(UserError, match=r"'a\.parquet' is damaged"):
        rows(bytes(data), "a.parquet", ("other",))


@pytest.mark.parametrize("ending", PACKED)
def test_compressed_parts_are_read_to_the_last(ending: str) -> None:
    assert rows(PACKED[ending], f"a.jsonl{ending}") == rows(LINES, "a.jsonl")


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("lost", [1, 5, 200])
def test_a_compressed_file_that_was_cut_short_is_damaged(ending: str, lost: int) -> None:
    with pytest.raises(UserError, match=rf"'a\.jsonl\{ending}' is damaged"):
        rows(PACKED[ending][:-lost], f"a.jsonl{ending}")


@pytest.mark.parametrize("ending", PACKED)
def test_a_changed_byte_is_damage(ending: str) -> None:
    data = bytearray(PACKED[ending])
    data[len(data) // 3] ^= 0xFF
    with pytest.raises(UserError, match=rf"'a\.jsonl\{ending}"):
        rows(bytes(data), f"a.jsonl{ending}")


@pytest.mark.parametrize("kept", [0, 3, 100, -5])
def test_parquet_that_was_cut_short_is_damaged(kept: int) -> None:
    with pytest.raises(UserError, match=r"'a\.parquet' is damaged"):
        rows(parquet(["text"] * 50)[:kept], "a.parquet")


@pytest.mark.parametrize(
    ("name", "bomb"),
    [
        ("a.txt.gz", gzip.compress(bytes(1 << 24))),
        ("a.txt.zst", zstandard.compress(bytes(1 << 24))),
        ("a.txt.bz2", bz2.compress(bytes(1 << 24))),
    ],
)
def test_a_bomb_ends_the_stage_long_before_it_is_read(name: str, bomb: bytes) -> None:
    with pytest.raises(UserError, match=rf"'{name}' has over \d+ decompressed bytes for a compressed one"):
        rows(bomb, name)
    with pytest.raises(UserError, match=rf"'{name}' has more than max_file_bytes = 4096 bytes when decompressed"):
        rows(bomb, name, max_file_bytes=4096, max_ratio=1e6)


def test_a_bomb_of_parquet_is_seen_before_it_is_read() -> None:
    bomb = parquet([" " * (1 << 24)], "zstd")
    with pytest.raises(UserError, match=r"'a\.parquet' has \d+ bytes when decompressed"):
        rows(bomb, "a.parquet")


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.tex", "a.cnxml", "a.jsonl"])
def test_a_text_beyond_the_limit_is_named(name: str) -> None:
    with pytest.raises(UserError, match=rf"'{name}(:1)?' has more than max_text_bytes = 1000 bytes in one text"):
        rows(b"x" * 5000, name, max_text_bytes=1000)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'"\\ud800"', "half_a_surrogate_pair"),
        (b'"a\\u0000"', "nul_character"),
        (b"null", "no_text"),
        (b"1", "no_text"),
    ],
)
def test_a_row_that_is_no_text_stops_or_is_refused(line: bytes, problem: str) -> None:
    data = b'{"text": ' + line + b'}\n{"text": "good"}\n'
    with pytest.raises(UserError, match=rf"'a\.jsonl:1': column 'text' holds .*{problem.replace('_', ' ')}.*bad_rows"):
        rows(data, "a.jsonl")
    assert [row.problem for row in rows(data, "a.jsonl", bad_rows="refuse")] == [problem, None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n{"text"\n', r"'a\.jsonl:2' is not JSON"),
        (b'{"text": "\xff"}\n', r"'a\.jsonl:1' is not valid utf-8 at byte 10"),
        (b"[" * 100_000, r"'a\.jsonl:1' is not JSON"),
        (b"[1]\n", r"'a\.jsonl:1' is not a JSON object"),
        (b'{"body": ""}\n', r"'a\.jsonl:1' has no column 'text'; it has 'body'"),
    ],
)
def test_a_line_that_is_no_row_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows(data, "a.jsonl")


def test_a_column_of_parquet_that_is_missing_or_no_text_is_named() -> None:
    with pytest.raises(UserError, match=r"'a\.parquet' has no column 'body'; it has 'text', 'license', 'other'"):
        list(formats.rows(io.BytesIO(parquet(["a"])), "a.parquet", Options(text_column="body")))
    with pytest.raises(UserError, match=r"'a\.parquet:1': column 'other' holds 1: no text"):
        list(formats.rows(io.BytesIO(parquet(["a"])), "a.parquet", Options(text_column="other")))


def test_a_name_without_a_format_is_refused_with_the_formats() -> None:
    formats.check(["a.md", "b/c.xml.bz2", "d.warc.gz"], "here", FormatSettings())
    with pytest.raises(UserError, match=r"'a\.bin' in here is none of \.txt, .*`include`.*`formats\.plain`"):
        formats.check(["a.bin"], "here", FormatSettings())


def test_code_is_read_as_it_stands_where_the_source_names_it() -> None:
    plain = ("*.rs", "Makefile", "/data/*.json")
    names = ["src/main.rs", "deep/Makefile", "data/a.json", "old/main.rs.gz"]
    formats.check(names, "here", FormatSettings(plain=plain))
    code = 'fn main() {\r\n\tprintln!("é");\n}\n'
    assert {text(code.encode(), name, plain=plain) for name in names[:3]} == {code}
    assert text(gzip.compress(code.encode()), names[3], plain=plain) == code


@pytest.mark.parametrize("head", ["# -*- coding: koi8-r -*-\n", "#!/bin/sh\n# vim: set fileencoding=koi8-r :\n"])
def test_code_in_another_encoding_says_so_at_its_top(head: str) -> None:
    code = f"{head}name = 'Заглавие'\n"
    (row,) = rows(code.encode("koi8-r"), "a.py", plain=("*.py",))
    assert (row.text, row.encoding) == (code, "koi8-r")


def test_json_is_objects_one_after_another_or_in_an_array() -> None:
    values = [{"text": "één", "n": 1}, {"text": "{two}\n", "n": 2}]
    spread = "\n\n".join(json.dumps(value, indent=4) for value in values)
    for data in (spread, json.dumps(values), json.dumps(values[0]) + json.dumps(values[1])):
        found = rows(data.encode(), "a.json", ("n",))
        assert [(row.place, row.text, row.columns["n"]) for row in found] == [(":1", "één", 1), (":2", "{two}\n", 2)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"text": "a"}\n{"text": "b"', r"'a\.json' is not JSON: .*line 2"),
        (b'{"text": "a"} 1', r"'a\.json:2' is not a JSON object"),
        (b"[" * 100_000, r"'a\.json' is not JSON"),
        (b'{"body": ""}', r"'a\.json:1' has no column 'text'; it has 'body'"),
        (b'{"text": "\\ud800"}', r"'a\.json:1': column 'text' holds .*half a surrogate pair"),
    ],
)
def test_json_that_is_no_objects_is_named(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows(data, "a.json")


def test_line_ends_stay(tmp_path: Path) -> None:
    assert text(b"a\r\nb\rc\n", "a.md") == "a\r\nb\rc\n"
