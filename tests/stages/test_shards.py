import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from megatron.core.datasets.indexed_dataset import IndexedDataset

from stages.corpus import bpe
from stages.corpus.documents import read
from stages.errors import UserError
from stages.files import read_json, sha256_file

OUT = Path("out/shards")
TOKENIZER = Path("out/tokenizer/tokenizer/tokenizer.json")
UPSTREAM = ("snapshot", "curate", "tokenizer")
SHARDS = [(split, domain) for split in ("train", "validation", "test") for domain in ("code", "prose")]
Run = Callable[..., None]
Params = dict[str, Any]


def test_megatron_reads_every_document_back_to_its_bytes(run_stages: Run) -> None:
    run_stages(*UPSTREAM, "shards")
    tokenizer = bpe.load(TOKENIZER)
    for split, domain in SHARDS:
        dataset = IndexedDataset(str(OUT / "tokens" / split / domain))
        documents = list(read(sorted(Path("out/curate/documents", split).glob(f"{domain}-*"))))
        assert len(dataset) == len(documents) == len(dataset.document_indices) - 1
        for tokens, document in zip(dataset, documents, strict=True):
            assert (tokens.dtype, tokens[-1]) == (np.uint16, 0)
            assert tokenizer.decode(tokens[:-1].tolist(), skip_special_tokens=False) == document.text


def test_the_sidecar_finds_each_document_in_the_shard(run_stages: Run) -> None:
    run_stages(*UPSTREAM, "shards")
    tokenizer = bpe.load(TOKENIZER)
    for split, domain in SHARDS:
        prefix = OUT / "tokens" / split / domain
        tokens = np.fromfile(prefix.with_suffix(".bin"), dtype=np.uint16)
        documents = {each.id: each for each in read(sorted(Path("out/curate/documents", split).glob(f"{domain}-*")))}
        rows = pq.read_table(prefix.with_suffix(".parquet")).to_pylist()
        assert [row["index"] for row in rows] == list(range(len(documents)))
        for row in rows:
            document = documents.pop(row["id"])
            found = tokens[row["offset"] : row["offset"] + row["tokens"] - 1]
            assert tokenizer.decode(found.tolist(), skip_special_tokens=False) == document.text
            for column in ("source", "license", "origin"):
                assert row[column] == getattr(document, column)
            assert row["bytes"] == len(document.text.encode())


def test_the_index_counts_and_digests_what_is_there(run_stages: Run) -> None:
    run_stages(*UPSTREAM, "shards")
    index = read_json(OUT / "index.json")
    assert index["tokenizer"] == {"sha256": sha256_file(TOKENIZER), "vocab_size": 512} | {
        "end_of_document": 0,
        "pad": 1,
    }
    for split, domain in SHARDS:
        entry = index["splits"][split][domain]
        assert entry["tokens"] == (OUT / "tokens" / split / f"{domain}.bin").stat().st_size // 2
        for name, digest in entry["files"].items():
            assert sha256_file(OUT / "tokens" / split / name) == digest


def test_the_funnel_starts_with_the_snapshot_and_ends_with_the_tokens_of_the_shards(run_stages: Run) -> None:
    run_stages(*UPSTREAM, "shards")
    found, index = read_json(OUT / "funnel.json"), read_json(OUT / "index.json")["splits"]
    report, rows = read_json(Path("out/curate/report.json")), found["funnel"]["total"]
    assert rows[0]["entered"]["documents"] == read_json(Path("out/snapshot/metrics.json"))["documents"]
    for split, domain in SHARDS:
        names = ("documents", "bytes", "tokens")
        assert found["kept"][split]["by"]["domain"][domain] == {name: index[split][domain][name] for name in names}
    tokens = sum(entry["tokens"] for domains in index.values() for entry in domains.values())
    assert rows[-1]["left"]["estimated_tokens"] == tokens < rows[0]["entered"]["estimated_tokens"]
    assert [row["step"] for row in rows] == [row["step"] for row in read_json(OUT / "plots/tokens_by_step.json")]
    assert {reason: count["documents"] for reason, count in found["dropped"].items()} == {
        reason: count["documents"] for reason, count in report["dropped"].items()
    }


def test_a_run_goes_on_from_the_files_that_an_earlier_one_finished(run_stages: Run) -> None:
    run_stages(*UPSTREAM)
    last = sorted(Path("out/curate/documents/test").glob("prose-*"))[-1]
    whole = last.read_bytes()
    last.chmod(0o644)
    last.write_bytes(whole[:-100])
    with pytest.raises(pa.ArrowInvalid, match="Parquet"):
        run_stages("shards")
    finished = [path for path in (OUT / "scratch").iterdir() if path.is_dir()]
    assert finished and not (OUT / "tokens").exists()
    for folder in finished:  # a mark that only a run that takes them from here shows
        tokens = np.fromfile(folder / "tokens.bin", np.uint16)
        np.ones_like(tokens).tofile(folder / "tokens.bin")
    last.write_bytes(whole)
    run_stages("shards")
    assert set(np.fromfile(OUT / "tokens/train/code.bin", np.uint16)) == {1}
    assert not (OUT / "scratch").exists()


def test_a_domain_without_held_out_documents_is_an_error(params: Params, run_stages: Run) -> None:
    params["curate"]["split"]["validation"] = 1e-9
    params["tokenizer"]["vocab_size"] = 300
    run_stages("snapshot", "curate")
    with pytest.raises(UserError, match="validation' has no documents"):
        run_stages("shards")
    params["curate"]["split"]["validation"] = 0.15
    run_stages(*UPSTREAM)
    for path in Path("out/curate/documents/test").glob("prose-*"):
        path.unlink()
    with pytest.raises(UserError, match=r"Domain 'prose' has no document in split 'test'. Raise curate\.split\.test"):
        run_stages("shards")
    assert not OUT.exists()


def test_a_missing_tokenizer_is_named_with_the_stage_that_makes_it(run_stages: Run) -> None:
    run_stages("snapshot", "curate")
    with pytest.raises(UserError, match=r"tokenizer\.json' is missing.*`dvc repro tokenizer`"):
        run_stages("shards")


def test_a_tokenizer_whose_ids_have_gaps_is_an_error(run_stages: Run) -> None:
    run_stages(*UPSTREAM)
    tokenizer = json.loads(TOKENIZER.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["Ġ"] = 9999
    TOKENIZER.write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"gives id 9999 in .* but has 512 tokens"):
        run_stages("shards")
    assert not (OUT / "index.json").exists()
