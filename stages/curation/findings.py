"""What curation found of evaluation data: each passage, and how many rows and documents of each benchmark."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from stages.curation.contamination import CONTAMINATED, STEP, Finding
from stages.curation.trail import tables

_DOCUMENT = ("id", "source", "domain", "origin")


def findings(paths: Iterable[Path]) -> Iterator[dict[str, str]]:
    """Yield a row for each row of a benchmark that a document of the trail has a passage of.

    It says the `benchmark`, the `row`, the `passage`, the document, and what was done (`action`): the document was
    dropped for it (`drop`) or later (`dropped_later`), its passages cut out (`cut`), or it was left as it was (`tag`).
    Memory holds a row group.
    """
    for table in tables(paths, [*_DOCUMENT, "step", "edits", "tags"]):
        for entry in _found(table.combine_chunks()).to_pylist():
            document = {name: entry[name] for name in _DOCUMENT}
            for finding in Finding.of(entry["tags"]):
                yield {**finding._asdict(), **document, "action": _action(entry)}


def by_benchmark(found: Iterable[dict[str, str]], benchmarks: Iterable[str]) -> dict[str, Any]:
    """Return for each benchmark how many of its `rows` were found, and in how many `documents`, by what was done.

    Args:
        found: The findings, those of a document together, as `findings` yields them.
        benchmarks: Names of benchmarks that were looked for; of some nothing may be found.
    """
    rows: dict[str, set[str]] = {name: set() for name in benchmarks}
    documents: dict[str, Counter[str]] = {name: Counter() for name in rows}
    last: dict[str, str] = {}
    for each in found:
        name = each["benchmark"]
        rows[name].add(each["row"])
        documents[name][each["action"]] += last.get(name) != each["id"]
        last[name] = each["id"]
    return {
        name: {"rows": len(rows[name]), "documents": dict(sorted(documents[name].items()))} for name in sorted(rows)
    }


def _found(table: pa.Table) -> pa.Table:
    """Return the rows of documents that have a passage."""
    holders = pc.list_parent_indices(table["tags"])
    return table.take(pc.unique(holders.filter(pc.equal(pc.list_flatten(table["tags"]), CONTAMINATED))))


def _action(entry: dict[str, Any]) -> str:
    if entry["step"] == STEP:
        return "drop"
    if entry["step"]:
        return "dropped_later"
    return "cut" if STEP in entry["edits"] else "tag"
