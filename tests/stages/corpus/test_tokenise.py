import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

from stages.corpus import bpe
from stages.corpus.documents import Document, ShardWriter, document_id, text_digest
from stages.corpus.tokenise import write_shards
from stages.curation.engine import Local, started
from stages.errors import UserError
from stages.files import sha256_file

FILES = sorted(Path(json.__file__).parent.glob("*.py"))
TEXTS = [line for path in FILES for line in path.read_text().split("\n\n")]
TOKENIZER = Path("tokenizer.json")


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files of documents, and a tokenizer, in the working directory."""
    monkeypatch.chdir(tmp_path)
    bpe.train(TEXTS, 400).save(str(TOKENIZER))
    with ShardWriter(Path("documents"), "code", 9_000) as writer:
        for number, text in enumerate(TEXTS):
            digest, origin = text_digest(text), str(number)
            writer.add(Document(document_id("s", origin, digest), text, "code", "s", origin, "MIT", digest))
    return sorted(Path("documents").glob("*"))


def write(paths: list[Path], prefix: str, workers: int = 1) -> dict[str, Any]:
    with started(Local(kind="local", workers=workers)) as pool:
        return write_shards({Path(prefix): paths}, TOKENIZER, pool, Path("scratch"))[Path(prefix)]


def test_the_pair_has_the_bytes_that_megatron_writes(paths: list[Path]) -> None:
    entry = write(paths, "shard/code")
    tokenizer = bpe.load(TOKENIZER)
    builder = IndexedDatasetBuilder("megatron.bin", dtype=np.uint16)
    for text in TEXTS:
        ids = [*tokenizer.encode(text).ids, 0]
        builder.add_document(np.array(ids), [len(ids)])
    builder.finalize("megatron.idx")
    for suffix in ("bin", "idx"):
        assert entry["files"][f"code.{suffix}"] == sha256_file(Path(f"megatron.{suffix}"))
    assert len(IndexedDataset("shard/code")) == len(TEXTS) == entry["documents"]


def test_the_sidecar_finds_each_document(paths: list[Path]) -> None:
    assert len(paths) > 2
    write(paths, "code")
    tokenizer, tokens = bpe.load(TOKENIZER), np.fromfile("code.bin", np.uint16)
    rows = pq.read_table("code.parquet").to_pylist()
    assert [row["origin"] for row in rows] == [str(row["index"]) for row in rows] == list(map(str, range(len(TEXTS))))
    for row, text in zip(rows, TEXTS, strict=True):
        found = tokens[row["offset"] : row["offset"] + row["tokens"]]
        assert tokenizer.decode(found[:-1].tolist(), skip_special_tokens=False) == text
        assert (found[-1], row["bytes"]) == (0, len(text.encode()))


def test_the_files_that_documents_lie_in_do_not_show(paths: list[Path]) -> None:
    many = write(paths, "many/code")
    with ShardWriter(Path("whole"), "code") as writer:
        for path in paths:
            for row in pq.read_table(path).to_pylist():
                writer.add(Document(**row))
    assert write(sorted(Path("whole").glob("*")), "one/code") == many


@pytest.mark.e2e
def test_the_number_of_workers_does_not_show(paths: list[Path]) -> None:
    one = write(paths, "one/code")
    Path("scratch").rename("other")
    assert write(paths, "two/code", workers=2) == one


def test_a_second_run_takes_the_files_that_are_finished(paths: list[Path]) -> None:
    write(paths[:2], "some/code")
    times = {part.name: part.stat().st_mtime_ns for part in Path("scratch").iterdir()}
    write(paths, "all/code")
    assert len(times) == 2
    assert times.items() <= {part.name: part.stat().st_mtime_ns for part in Path("scratch").iterdir()}.items()


def test_ids_with_gaps_are_an_error(paths: list[Path]) -> None:
    described = json.loads(TOKENIZER.read_text())
    described["model"]["vocab"]["Ġ"] = 9999
    TOKENIZER.write_text(json.dumps(described))
    with pytest.raises(UserError, match=r"gives id 9999 in .* but has 400 tokens"):
        write(paths, "code")
