"""What curation did to the corpus, counted from the trail of every document."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages.corpus.tally import Count
from stages.curation import trail

GROUPS = ("domain", "source", "license", "language")


def report(paths: Sequence[Path]) -> dict[str, Any]:
    """Return documents and bytes: kept by split, dropped by reason, and each way through the steps (`trail.fates`).

    What is kept counts with the bytes that it has left, what is dropped with those that it had.
    """
    funnel = trail.fates(paths)
    kept = [row for row in funnel if row["split"]]
    dropped = [row for row in funnel if not row["split"]]
    return {
        "kept": {split: _split([row for row in kept if row["split"] == split]) for split in _values(kept, "split")},
        "dropped": _by(dropped, "reason", "bytes"),
        "funnel": funnel,
        "clusters": _clusters(paths),
    }


def totals(found: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of a report: of what is kept, what is dropped, and each split."""
    splits = {split: Count(documents=part["documents"], bytes=part["bytes"]) for split, part in found["kept"].items()}
    return {"kept": _sum(splits.values()), "dropped": _sum(found["dropped"].values()), "splits": splits}


def reasons(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row a reason, the most frequent first, as DVC plots it."""
    counts = {reason: count["documents"] for reason, count in found["dropped"].items()}
    order = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return [{"reason": reason, "documents": counts[reason]} for reason in order]


def _split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    by = {group: _by(rows, group, "kept_bytes") for group in GROUPS}
    return {**_sum(by["domain"].values()), "by": by}


def _by(rows: list[dict[str, Any]], column: str, length: str) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    for value in _values(rows, column):
        own = [row for row in rows if (row[column] or "unknown") == value]
        counts[value] = Count(documents=sum(row["documents"] for row in own), bytes=sum(row[length] for row in own))
    return counts


def _values(rows: list[dict[str, Any]], column: str) -> list[str]:
    return sorted({row[column] or "unknown" for row in rows})


def _sum(counts: Iterable[Count]) -> Count:
    every = list(counts)
    return Count(documents=sum(one["documents"] for one in every), bytes=sum(one["bytes"] for one in every))


def _clusters(paths: Sequence[Path]) -> list[dict[str, int]]:
    """Return how many clusters of equal and nearly equal documents have how many of them."""
    members: Counter[str] = Counter()
    for path in paths:
        column = pq.read_table(path, columns=["cluster"])["cluster"].drop_null()
        members.update(column.to_pylist())
    sizes = Counter(members.values())
    return [{"documents": size, "clusters": sizes[size]} for size in sorted(sizes)]
