"""The verdict store: one row for every document that curation read, kept or dropped, in Parquet, by part.

Rows are in the order in which the documents were read. So the rows of `trail/<part>.parquet` that are kept in a split
are, one by one, the documents of `documents/<split>/<domain>-<part>.parquet`; what later stages count of those
documents, they join by this order.

What happened to one document is `explain`; how many went where, and why, is `fates`; samples are `gallery`. All
stream: memory holds a row group, and what is returned.
"""

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.corpus.documents import Document, document_id, size
from stages.corpus.licenses import NOT_ALLOWED
from stages.curation.chain import Event, Outcome
from stages.errors import UserError

EXCERPT_CHARACTERS = 200
KEPT, DROPPED = "kept", "dropped"
_PRIVATE = ("opt_out", "pii")
"""Steps whose dropped documents have no excerpt."""
GATE = "gate"  # the license gate, as a step
LANGUAGE = "language:"
_ID = re.compile(r"[0-9a-f]{32}")
_WHERE = (
    "Take one from out/curate/dropped.jsonl, or the column `id` of out/curate/trail; what the license gate kept out of "
    "the snapshot is in out/snapshot/refused.jsonl."
)
ROWS = 4096

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("domain", pa.string()),
        ("license", pa.string()),
        ("language", pa.string()),  # of the tag `language:<code>`, or null
        ("bytes", pa.int64()),  # of the text as it was read
        ("kept_bytes", pa.int64()),  # of the text as the chain left it
        ("outcome", pa.string()),
        ("step", pa.string()),  # that dropped it, or null
        ("reason", pa.string()),
        ("events", pa.string()),  # JSON: the events of `stages.curation.chain`, in order
        ("edits", pa.list_(pa.string())),  # names of the steps that changed the text, in order
        ("edit_bytes", pa.list_(pa.int64())),  # by how many bytes each made it longer: `bytes` and these are kept_bytes
        ("tags", pa.list_(pa.string())),
        ("cluster", pa.string()),  # the digest that equal and nearly equal texts share, or null
        ("split", pa.string()),  # of what is kept
        ("excerpt", pa.string()),  # of what is dropped
    ]
)
_REPEATED = ["source", "domain", "license", "language", "outcome", "step", "reason", "edits", "tags", "split"]
FATES = ("source", "domain", "license", "language", "split", "step", "reason")


def row(before: Document, outcome: Outcome) -> dict[str, Any]:
    """Return the row of a document that a chain has seen; deduplication and the split are still to come."""
    after, trail = outcome.document, outcome.trail
    tags = [tag for event in trail for tag in event.tags]
    language = next((tag.removeprefix(LANGUAGE) for tag in tags if tag.startswith(LANGUAGE)), None)
    known = {name: getattr(before, name) for name in ("id", "source", "origin", "domain", "license")}
    return {
        **known,
        "language": language,
        "bytes": size(before),
        "kept_bytes": size(after),
        "outcome": KEPT,
        "events": json.dumps([_event(event) for event in trail]),
        "edits": [event.step for event in trail if event.edited],
        "edit_bytes": [event.bytes for event in trail if event.edited],
        "tags": tags,
        **(_dropped(trail[-1].step, outcome.reason, after.text) if outcome.reason else {}),
    }


def refused(facts: Mapping[str, Any], domain: str) -> dict[str, Any]:
    """Return the row of a document that the license gate refused, of what `stages.corpus.gate` says of it.

    Words that are no license are a tag of the event, and no value of the column, by which documents are grouped.
    """
    source, origin, reason, terms = (facts[name] for name in ("source", "origin", "reason", "license"))
    is_license = reason == NOT_ALLOWED
    event = Event(GATE, reason, {}, False, () if is_license else (terms,))
    return {
        "id": document_id(source, origin, facts["sha256"]),
        "source": source,
        "origin": origin,
        "domain": domain,
        "license": terms if is_license else None,
        "bytes": facts["bytes"],
        "kept_bytes": facts["bytes"],
        **_dropped(GATE, reason, ""),
        "events": json.dumps([_event(event)]),
        "edits": [],
        "edit_bytes": [],
        "tags": [],
    }


def drop(entry: dict[str, Any], event: Event, text: str) -> None:
    """Note in the row of a kept document that it is dropped after all."""
    events = [*json.loads(entry["events"]), _event(event)]
    entry.update(_dropped(event.step, event.reason, text), events=json.dumps(events))


class TrailWriter:
    """Writes rows to one Parquet file; its bytes are a function of the rows and their order."""

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._parquet = pq.ParquetWriter(path, SCHEMA, compression="zstd", use_dictionary=_REPEATED)
        self._rows: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
        self._parquet.close()

    def add(self, entry: dict[str, Any]) -> None:
        """Append a row."""
        self._rows.append(entry)
        if len(self._rows) == ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows = []


def tables(paths: Iterable[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of the row groups of files, in order."""
    for path in paths:
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                yield parquet.read_row_group(group, columns=list(columns))


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one file, in order."""
    for table in tables([path], SCHEMA.names):
        yield from table.to_pylist()


def explain(paths: Sequence[Path], identity: str) -> dict[str, Any]:
    """Return everything that happened to a document: its row, and the rows of its cluster.

    Raises:
        UserError: It is no id, or no document has it.
    """
    if not _ID.fullmatch(identity):
        raise UserError(f"'{identity}' is no document's id, which has 32 hex digits. {_WHERE}")
    found = next(_where(paths, "id", identity), None)
    if found is None:
        raise UserError(f"No document that curation read has the id '{identity}'. {_WHERE}")
    cluster = _where(paths, "cluster", found["cluster"]) if found["cluster"] else iter(())
    names = ("id", "source", "origin", "outcome", "reason", "split")
    others = [{name: other[name] for name in names} for other in cluster if other["id"] != identity]
    return {**found, "events": json.loads(found["events"]), "duplicates": others}


def fates(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return documents, bytes and kept bytes of each combination of `FATES` that occurs, in their order.

    A step and a reason are those that dropped the documents, null for kept ones, which alone have a split.
    """
    counts: dict[tuple[Any, ...], Counter[str]] = {}
    for table in tables(paths, [*FATES, "bytes", "kept_bytes"]):
        sums = table.group_by(list(FATES)).aggregate([("bytes", "count"), ("bytes", "sum"), ("kept_bytes", "sum")])
        for group in sums.to_pylist():
            count = counts.setdefault(tuple(group[name] for name in FATES), Counter())
            count["documents"] += group["bytes_count"]
            count["bytes"] += group["bytes_sum"]
            count["kept_bytes"] += group["kept_bytes_sum"]
    order = sorted(counts, key=lambda key: [value or "" for value in key])
    return [{**dict(zip(FATES, key, strict=True)), **counts[key]} for key in order]


def lengths(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return how many documents have a text of 2^n bytes or more and less than 2^(n+1), by outcome, as read."""
    counts: Counter[tuple[str, int]] = Counter()
    for table in tables(paths, ["outcome", "bytes"]):
        _, exponents = np.frexp(table["bytes"].to_numpy())
        binned = pa.table({"outcome": table["outcome"], "power": np.maximum(exponents - 1, 0)})
        for row in binned.group_by(["outcome", "power"]).aggregate([([], "count_all")]).to_pylist():
            counts[row["outcome"], row["power"]] += row["count_all"]
    return [{"outcome": outcome, "bytes": 1 << n, "documents": counts[outcome, n]} for outcome, n in sorted(counts)]


def gallery(paths: Sequence[Path], sample: int) -> Iterator[dict[str, Any]]:
    """Yield for each reason the `sample` dropped documents whose ids are smallest, by reason and id.

    Ids are digests, so this is a random sample that does not change from run to run.
    """
    names = ["reason", "id", "source", "domain", "origin", "license", "step", "events", "excerpt"]
    heaps: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for table in tables(paths, names):
        for entry in table.filter(pc.is_valid(table["reason"])).to_pylist():
            heap = heaps.setdefault(entry["reason"], [])
            heapq.heappush(heap, (-int(entry["id"], 16), entry))
            if len(heap) > sample:
                heapq.heappop(heap)
    for reason in sorted(heaps):
        for _, entry in sorted(heaps[reason], key=lambda item: -item[0]):
            yield {**entry, "events": json.loads(entry["events"])}


def _dropped(step: str, reason: str | None, text: str) -> dict[str, Any]:
    """Return what a row says of a dropped document; releases have excerpts, so none shows what must not be shown."""
    excerpt = "" if step in _PRIVATE else text[:EXCERPT_CHARACTERS]
    return {"outcome": DROPPED, "step": step, "reason": reason, "excerpt": excerpt}


def _event(event: Event) -> dict[str, Any]:
    numbers = {name: float(number) for name, number in event.numbers.items()}
    return {**event._asdict(), "numbers": numbers}


def _where(paths: Sequence[Path], column: str, value: str) -> Iterator[dict[str, Any]]:
    """Yield the rows with a value; only the row groups that hold one are read whole."""
    for path in paths:
        with pq.ParquetFile(path) as parquet:
            for group in range(parquet.num_row_groups):
                found = pc.equal(parquet.read_row_group(group, columns=[column])[column], value)
                if pc.any(found).as_py():
                    yield from parquet.read_row_group(group).filter(found).to_pylist()
