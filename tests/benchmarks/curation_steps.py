"""MB/s of one core of each step of curation: `python -m tests.benchmarks.curation_steps [--every N]`.

Each step sees the same documents of ../shared/data/corpus.tar.gz, batch by batch, as `curate` gives them to it, with
everything switched on; seconds are of the CPU, without what a step reads or trains before. Beside the steps of chains
there is what is done for every document: MinHash signatures, digests, and reading and writing Parquet. Filters that
count words share their splitting, so that the first of them pays for all; `again` is a second pass over the same
documents, in which it is paid for, as it is for all but the first of them in a chain.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from stages.corpus.documents import Document, ShardWriter, batches, read, text_digest
from stages.curation.chain import Chain
from stages.curation.minhash import MinHash, signature
from stages.curation.pii import Kind
from stages.files import sha256_file, sha256_tree
from tests.benchmarks.curation_filters import corpus
from tests.shared import shared

Work = Callable[[Sequence[Document]], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=7, help="take one file of so many (default: %(default)s)")
    documents = list(corpus(parser.parse_args().every, 1_000_000))
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    print(f"{len(documents):,} documents, {size:.1f} MB; MB/s of one core\n")
    print("| step | once | again |\n|---|---:|---:|")
    for name, work in works():
        rates = [size / seconds(work, documents) for _ in range(2)]
        print(f"| {name} | {rates[0]:.1f} | {rates[1]:.1f} |", flush=True)


def seconds(work: Work, documents: list[Document]) -> float:
    """Return the seconds of the CPU that it takes."""
    begin = time.process_time()
    for batch in batches(documents):
        work(batch)
    return time.process_time() - begin


def works() -> Iterator[tuple[str, Work]]:
    """Yield every kind of work, past its first document."""
    warm_up = next(corpus(10_000, 1000))
    with tempfile.TemporaryDirectory() as folder:
        chain = Chain.model_validate_json(json.dumps({"steps": list(steps(Path(folder)))}))
        for settings in chain.steps:
            step = settings.build()
            step([warm_up])
            yield settings.step, step
        yield "(signatures)", _signatures()
        yield "(digests)", lambda batch: [text_digest(document.text) for document in batch]
        yield "(written and read)", lambda batch: _written(batch, Path(folder))


def steps(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the settings of steps."""
    yield {"step": "unicode", "mojibake": True, "controls": True, "normalization": "NFC"}
    yield {"step": "boilerplate", "gutenberg": True, "license_headers": True}
    yield {"step": "language"}
    yield from ({"step": name} for name in ("gopher_repetition", "gopher_quality", "c4", "fineweb"))
    yield {"step": "repeated_lines", "max_fraction": 1.0}
    yield {"step": "stop_words", "min_distinct": 1}
    yield {"step": "encoded_data", "max_run": 1 << 30, "max_fraction": 1.0}
    yield _blocklist()
    yield _toxicity(folder)
    yield _pii()
    yield _contamination()


def _pii() -> dict[str, Any]:
    return {
        "step": "pii",
        "policies": dict.fromkeys(get_args(Kind), "mask"),
        "national_ids": ["us_ssn"],
        "phone_regions": ["US", "GB", "DE"],
        "min_base64_entropy": 4.5,
        "min_hex_entropy": 3.0,
        "spare_examples": True,
    }


def _blocklist() -> dict[str, Any]:
    path = shared("curation") / "blocklist" / "ldnoobw" / "en.txt"
    return {"step": "blocklist", "lists": {"en": {"path": str(path), "sha256": sha256_file(path)}}, "min_count": 1}


def _toxicity(folder: Path) -> dict[str, Any]:
    path = shared("curation") / "toxicity" / "hatecheck.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    examples = folder / "examples.jsonl"
    examples.write_text("".join(json.dumps({"text": row["text"], "label": row["label"]}) + "\n" for row in rows))
    pinned = {"examples": str(examples), "sha256": sha256_file(examples)}
    return {"step": "toxicity", **pinned, "toxic": ["hateful"], "min_score": 0.5}


def _contamination() -> dict[str, Any]:
    folders = sorted(folder for folder in shared("bench").iterdir() if folder.is_dir())
    benchmarks = {
        folder.name: {"folder": str(folder), "sha256": sha256_tree(folder), "splits": ["test"], "tasks": [folder.name]}
        for folder in folders
        if any(folder.rglob("test.jsonl"))
    }
    return {
        "step": "contamination",
        "benchmarks": benchmarks,
        "ngram": 13,
        "action": "tag",
        "margin": 0,
        "max_cuts": 0,
    }


def _signatures() -> Work:
    near = MinHash(ngram=5, bands=14, rows=8, min_agreement=0.7, seed=0)
    permutations = near.permutations()
    return lambda batch: [signature(document.text, near.ngram, permutations) for document in batch]


def _written(batch: Sequence[Document], folder: Path) -> None:
    with ShardWriter(folder, "written", 1 << 62) as writer:
        for document in batch:
            writer.add(document)
    for _ in read([folder / "written-00000.parquet"]):
        pass


if __name__ == "__main__":
    main()
