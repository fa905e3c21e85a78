"""A source by reference yields later what a copy would have held, or nothing."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.corpus import references
from stages.corpus.documents import Document, read
from stages.corpus.gate import Record
from stages.corpus.sources import FilesSource
from stages.corpus.take import Taken, take
from stages.errors import UserError
from stages.settings import validate

ALLOWED = frozenset({"MIT"})
SHARD_BYTES = 1 << 20


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of texts; the working directory is beside it."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    rows = [{"text": f"row {number}", "license": "MIT" if number % 2 else "MPL-2.0"} for number in range(6)]
    (root / "a.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    pq.write_table(pa.Table.from_pylist(rows), root / "deep/b.parquet")
    return root


def unheeded(_: dict[str, str]) -> None:
    """Take a row of a refused document."""


def settings(root: Path, **changes: Any) -> FilesSource:
    base = {"kind": "files", "domain": "prose", "root": str(root), "license_column": "license"}
    return validate("source", FilesSource, {**base, **changes}, "test")


def pinned(source: FilesSource, folder: Path) -> Taken:
    """Take the source, pinned as it is now."""
    with pytest.raises(UserError, match="has no sha256") as raised:
        take("texts", source, ALLOWED, SHARD_BYTES, folder / "documents")
    source = source.model_copy(update={"sha256": str(raised.value)[-64:]})
    return take("texts", source, ALLOWED, SHARD_BYTES, folder / "documents")


def referred(source: FilesSource, snapshot: Path, scratch: Path) -> list[Document]:
    listed = references.read(snapshot / "references/texts.jsonl")
    return list(references.documents("texts", source, listed, ALLOWED, SHARD_BYTES, scratch, Record(unheeded)))


def test_documents_by_reference_are_those_of_a_copy(root: Path, tmp_path: Path) -> None:
    copy, manifest = tmp_path / "copy", tmp_path / "manifest"
    pinned(settings(root), copy)
    taken = pinned(settings(root, by_reference=True), manifest)
    copied = list(read(sorted((copy / "documents").glob("*.parquet"))))
    assert referred(settings(root, by_reference=True), manifest, tmp_path / "scratch") == copied
    assert len(copied) == 6
    assert taken.manifest["documents"] == 0
    assert not (manifest / "documents").exists()
    sizes = [path.stat().st_size for path in root.rglob("*.*")]
    assert taken.manifest["references"] == {"files": 2, "bytes": sum(sizes)}


def test_reading_by_reference_counts_what_the_gate_refuses(root: Path, tmp_path: Path) -> None:
    refused: list[dict[str, str]] = []
    source, record = settings(root, by_reference=True), Record(refused.append)
    pinned(source, tmp_path)
    listed = references.read(tmp_path / "references/texts.jsonl")
    list(references.documents("texts", source, listed, ALLOWED, SHARD_BYTES, tmp_path / "scratch", record))
    assert record.reasons.documents() == {"license_not_allowed": 6}
    assert {row["license"] for row in refused} == {"MPL-2.0"}


def test_some_of_the_files_can_be_read(root: Path, tmp_path: Path) -> None:
    source = settings(root, by_reference=True)
    pinned(source, tmp_path)
    [_, parquet] = references.read(tmp_path / "references/texts.jsonl")
    found = references.documents(
        "texts", source, [parquet], ALLOWED, SHARD_BYTES, tmp_path / "scratch", Record(unheeded)
    )
    assert [document.origin for document in found] == [f"deep/b.parquet:{number}" for number in (2, 4, 6)]


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\n", lambda data: data[::-1]])
def test_a_file_that_is_another_is_refused_before_a_document_of_it_is_read(
    change: Any, root: Path, tmp_path: Path
) -> None:
    source = settings(root, by_reference=True)
    pinned(source, tmp_path)
    path = root / "a.jsonl.gz"
    path.write_bytes(change(path.read_bytes()))
    listed = references.read(tmp_path / "references/texts.jsonl")
    found = references.documents("texts", source, listed, ALLOWED, SHARD_BYTES, tmp_path / "scratch", Record(unheeded))
    with pytest.raises(
        UserError, match=r"'a\.jsonl\.gz' of '.*' is sha256:\S{64} \(\d+ bytes\), not the pinned sha256:"
    ):
        next(found)
    assert path.exists()


def test_a_file_that_is_gone_is_named(root: Path, tmp_path: Path) -> None:
    source = settings(root, by_reference=True)
    pinned(source, tmp_path)
    (root / "deep/b.parquet").unlink()
    with pytest.raises(UserError, match=r"'deep/b\.parquet' of '.*' is gone"):
        referred(source, tmp_path, tmp_path / "scratch")


def test_a_source_by_reference_is_pinned_by_its_files(root: Path, tmp_path: Path) -> None:
    sha256 = pinned(settings(root, by_reference=True), tmp_path).manifest["sha256"]
    (root / "new.txt").write_text("new\n")
    source = settings(root, by_reference=True, sha256=sha256, license="MIT", license_column=None)
    with pytest.raises(UserError, match=rf"sha256 is '{sha256}' but the source is now"):
        take("texts", source, ALLOWED, SHARD_BYTES, tmp_path / "documents")
