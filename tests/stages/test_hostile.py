"""Files that are damaged or made to do harm, through the snapshot: the error names source and file, nothing is left."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from stages.errors import UserError

OUT = Path("out")
LINES = b'{"text": "a text"}\n' * 200
BOMB = b"0" * (1 << 24)
WIKI = b"<mediawiki><page><title>x</title><ns>0</ns><revision><text>words</text></revision></page></mediawiki>"
ENTITIES = b'<!DOCTYPE m [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>' + WIKI.replace(b"words", b"&b;")


def parquet(text: str) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [text]}), file, compression="zstd")
    return file.getvalue()


FILES = {
    "cut.parquet": (parquet("text" * 99)[:-20], "is damaged"),
    "cut.jsonl.gz": (gzip.compress(LINES)[:-9], "is damaged"),
    "cut.jsonl.zst": (zstandard.compress(LINES)[:-5], "is damaged"),
    "cut.xml": (WIKI[:60], "is damaged"),
    "cut.json": (LINES[:-4], "is not JSON"),
    "cut.warc": (b"WARC/1.0\r\nWARC-Type: response\r\n\r\n", "is damaged"),
    "bomb.txt.gz": (gzip.compress(BOMB), "decompressed bytes for a compressed one"),
    "bomb.jsonl.zst": (zstandard.compress(BOMB), "decompressed bytes for a compressed one"),
    "bomb.parquet": (parquet(BOMB.decode()), "bytes when decompressed"),
    "bomb.xml": (ENTITIES, "declares XML entities"),
    "nul.txt": (b"a\0b", "has a NUL character at 1"),
    "nul.jsonl": (b'{"text": "a\\u0000b"}\n', "nul character"),
    "surrogate.jsonl": (b'{"text": "a\\ud800b"}\n', "half a surrogate pair"),
    "mixed.md": (b"ab\xff", "its encoding can not be told"),
    "other.exe": (b"MZ", "is none of"),
}


@pytest.fixture
def refused(params: dict[str, Any], run_stages: Callable[..., None]) -> Callable[[], str]:
    """A function that takes the folder `texts` as the only source, and returns how the snapshot refuses."""
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a good text\n")
    params["snapshot"]["sources"] = {
        "web": {"kind": "files", "domain": "prose", "root": "texts", "license": "MIT", "sha256": "0" * 64}
    }

    def refused() -> str:
        with pytest.raises(UserError) as raised:
            run_stages("snapshot")
        assert not [path for path in OUT.rglob("*") if path.is_file()]
        return str(raised.value)

    return refused


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_damaged_or_hostile_is_named_with_its_source(name: str, refused: Callable[[], str]) -> None:
    data, fault = FILES[name]
    Path("texts", name).write_bytes(data)
    message = refused()
    assert message.startswith("Source 'web': ")
    assert f"'{name}" in message
    assert fault in message


def test_a_text_of_200_megabytes_is_refused_before_it_is_read_whole(refused: Callable[[], str]) -> None:
    with Path("texts/long.txt").open("wb") as file:
        file.truncate(200 << 20)
    assert "'long.txt' has more than max_text_bytes = 67108864 bytes in one text" in refused()


def test_folders_in_a_circle_are_named(refused: Callable[[], str]) -> None:
    Path("texts/deep").mkdir()
    Path("texts/deep/up").symlink_to("..")
    message = refused()
    assert message.startswith("Source 'web': ")
    assert "'deep/up' in 'texts' is a link to nothing, or to a folder that it lies in" in message


def test_a_license_that_does_not_parse_is_named(params: dict[str, Any], refused: Callable[[], str]) -> None:
    params["snapshot"]["sources"]["web"]["license"] = "MIT AND (Apache-2.0"
    assert "snapshot.sources.web.license = 'MIT AND (Apache-2.0' is not an SPDX expression" in refused()
