"""The funnel: documents and bytes that enter each step of curation, that it edits and drops, and that leave it.

It is counted from the trail (`stages.curation.trail`), where every document says which step dropped it, and by how
many bytes others changed its text. The first step is the license gate, where it refused documents of a source that is
taken by reference; what it refused of others is in the snapshot's manifest. The last is the search for duplicates.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from stages.corpus.tally import Count
from stages.curation.trail import tables

GROUPS = ("source", "domain", "license", "language")
Row = dict[str, Any]


class _Flow(NamedTuple):
    """Documents of one group that did the same thing at the same step."""

    group: Mapping[str, str]
    what: str
    step: str | None
    documents: int
    bytes: int


def funnel(paths: Iterable[Path], steps: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return a row a step, for all documents (`total`), and `by` each value of each of `GROUPS`.

    A row has the counts of documents that `entered` the step, that it `edited` and `dropped`, and that `left` it.
    Bytes are those that texts have at that point; of edits, those by which texts became longer, below 0 if shorter.

    Args:
        paths: The trail.
        steps: The names of the steps that the documents of each source go through, in order. Steps of one name count
            as one, where the first of them is.
    """
    flows = list(_flows(paths))
    return {"total": _rows(flows, steps), "by": {group: _by(flows, group, steps) for group in GROUPS}}


def merged(orders: Iterable[Sequence[str]]) -> list[str]:
    """Return the names of all orders, each where the first order that has it puts it."""
    found: list[str] = []
    for order in orders:
        for before, name in zip((None, *order), order, strict=False):
            if name not in found:
                found.insert(found.index(before) + 1 if before else 0, name)
    return found


def plotted(rows: Sequence[Row]) -> list[Row]:
    """Return how many documents were read, and how many left each step, as DVC plots it."""
    read = [{"step": "read", "documents": row["entered"]["documents"]} for row in rows[:1]]
    return read + [{"step": row["step"], "documents": row["left"]["documents"]} for row in rows]


def _flows(paths: Iterable[Path]) -> Iterator[_Flow]:
    """Yield the sums over all documents."""
    sums: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])
    for table in tables(paths, [*GROUPS, "step", "bytes", "kept_bytes", "edits", "edit_bytes"]):
        for what, flowed in _parts(table.combine_chunks()):
            counted = flowed.group_by([*GROUPS, "step"]).aggregate([("bytes", "count"), ("bytes", "sum")])
            for row in counted.to_pylist():
                total = sums[what, row["step"], *(row[group] or "unknown" for group in GROUPS)]
                total[0] += row["bytes_count"]
                total[1] += row["bytes_sum"]
    for (what, step, *values), (documents, length) in sums.items():
        yield _Flow(dict(zip(GROUPS, values, strict=True)), what, step, documents, length)


def _parts(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Yield what documents did, each a table with the groups, the step and the bytes."""
    groups = table.select(GROUPS)
    nowhere = pa.nulls(len(table), pa.string())
    yield "entered", groups.append_column("step", nowhere).append_column("bytes", table["bytes"])
    dropped = groups.append_column("step", table["step"]).append_column("bytes", table["kept_bytes"])
    yield "dropped", dropped.filter(pc.is_valid(table["step"]))
    edited = groups.take(pc.list_parent_indices(table["edits"]))
    edits, lengths = (pc.list_flatten(table[name]) for name in ("edits", "edit_bytes"))
    yield "edited", edited.append_column("step", edits).append_column("bytes", lengths)


def _by(flows: Sequence[_Flow], group: str, steps: Mapping[str, Sequence[str]]) -> dict[str, list[Row]]:
    own: dict[str, list[_Flow]] = defaultdict(list)
    for flow in flows:
        own[flow.group[group]].append(flow)
    return {value: _rows(own[value], steps) for value in sorted(own)}


def _rows(flows: Sequence[_Flow], steps: Mapping[str, Sequence[str]]) -> list[Row]:
    names = merged(steps[source] for source in sorted({flow.group["source"] for flow in flows}))
    assert {flow.step for flow in flows} <= {None, *names}
    left = _count(flows, "entered", None)
    rows = []
    for step in names:
        entered, edited, dropped = left, _count(flows, "edited", step), _count(flows, "dropped", step)
        left = Count(
            documents=entered["documents"] - dropped["documents"],
            bytes=entered["bytes"] + edited["bytes"] - dropped["bytes"],
        )
        rows.append({"step": step, "entered": entered, "edited": edited, "dropped": dropped, "left": left})
    return rows


def _count(flows: Iterable[_Flow], what: str, step: str | None) -> Count:
    own = [flow for flow in flows if (flow.what, flow.step) == (what, step)]
    return Count(documents=sum(flow.documents for flow in own), bytes=sum(flow.bytes for flow in own))
