"""What a release says of itself, read from its own files: the one source of every number in its card."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from release import data
from release.layout import SIDECARS
from stages.corpus.tally import Count
from stages.files import read_json, read_jsonl
from stages.settings import read_yaml

Record = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Training documents that share domain, source and license."""

    domain: str
    source: str
    license: str
    documents: int
    tokens: int
    bytes: int


@dataclass(frozen=True)
class Facts:
    """The parsed files of a release; see `release.layout` for which is which."""

    params: Record
    sources: Record
    curation: Record
    checked: Record
    shards: Record
    results: Record
    metrics: Record
    mixture: Record
    run: Record
    parity: Record
    config: Record
    events: list[Record]
    commit: str
    has_uncommitted_changes: bool
    training_data: list[Group]
    asked: dict[str, dict[str, Count]]


def read(root: Path) -> Facts:
    """Read the facts of the release at `root`."""
    sources = read_json(root / "data" / "manifest.json")["sources"]
    return Facts(
        params=read_yaml(root / "code" / "params.yaml"),
        sources=sources,
        curation=read_json(root / "data" / "curation.json"),
        checked=read_json(root / "data" / "contamination.json"),
        shards=read_json(root / "data" / "shards.json"),
        results=read_json(root / "evaluation" / "results.json"),
        metrics=read_json(root / "training" / "metrics.json"),
        mixture=read_json(root / "training" / "mixture.json"),
        run=read_json(root / "training" / "run.json"),
        parity=read_json(root / "training" / "parity.json"),
        config=read_json(root / "config.json"),
        events=[event for row in read_jsonl(root / "training" / "log.jsonl") for event in row.get("events", [])],
        commit=(root / "code" / "commit.txt").read_text(encoding="utf-8").splitlines()[0],
        has_uncommitted_changes=(root / "code" / "uncommitted.diff").exists(),
        training_data=_groups(root / SIDECARS / "train"),
        asked=data.asked((row for part in data.SPLITS for _, row in documents(root / SIDECARS / part)), sources),
    )


def documents(folder: Path) -> Iterator[tuple[str, Record]]:
    """Yield (domain, row) of every document in the sidecars of one split; rows carry no text."""
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                yield path.stem, row


def _groups(folder: Path) -> list[Group]:
    count, tokens, size = (
        Counter[tuple[str, str, str]](),
        Counter[tuple[str, str, str]](),
        Counter[tuple[str, str, str]](),
    )
    for domain, row in documents(folder):
        key = (domain, row["source"], row["license"])
        count[key] += 1
        tokens[key] += row["tokens"]
        size[key] += row["bytes"]
    return [Group(*key, count[key], tokens[key], size[key]) for key in sorted(count)]
