"""What curation did to the corpus, counted from the trail of every document."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from stages.corpus.licenses import flags
from stages.corpus.tally import Count, total
from stages.curation import trail
from stages.curation.chain import Chain
from stages.curation.contamination import CONTAMINATED
from stages.curation.funnel import GROUPS, funnel
from stages.curation.opt_out import REASON, OptOut
from stages.curation.parts import STEP

_NONE = Count(documents=0, bytes=0)


def report(paths: Sequence[Path], chains: Mapping[str, Chain]) -> dict[str, Any]:
    """Return documents and bytes: kept by split and by what licenses ask, dropped by reason, through each step, by tag.

    What is kept counts with the bytes that it has left, all others with those that they had when they were read.

    Args:
        paths: The trail.
        chains: What the documents of each source went through.
    """
    fates = trail.fates(paths)
    kept = [row for row in fates if row["split"]]
    dropped = [row for row in fates if not row["split"]]
    gated = {row["source"] for row in dropped if row["step"] == trail.GATE}
    tags = _tags(paths)
    return {
        "kept": {split: _split([row for row in kept if row["split"] == split]) for split in _values(kept, "split")},
        "license_flags": _license_flags(kept),
        "dropped": _by(dropped, "reason", "bytes"),
        "funnel": funnel(paths, {source: _steps(chain, source in gated) for source, chain in chains.items()}),
        "tags": tags,
        "opt_outs": _opt_outs(tags, chains.values()),
        "lengths": trail.lengths(paths),
        "clusters": _clusters(paths),
    }


def totals(found: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of a report: of what is kept, what is dropped, and each split."""
    splits = {split: Count(documents=part["documents"], bytes=part["bytes"]) for split, part in found["kept"].items()}
    return {"kept": total(splits.values()), "dropped": total(found["dropped"].values()), "splits": splits}


def reasons(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row a reason, the most frequent first, as DVC plots it."""
    counts = {reason: count["documents"] for reason, count in found["dropped"].items()}
    order = sorted(counts, key=lambda reason: (-counts[reason], reason))
    return [{"reason": reason, "documents": counts[reason]} for reason in order]


def _steps(chain: Chain, gated: bool) -> list[str]:
    return [*([trail.GATE] if gated else []), *(step.step for step in chain.steps), STEP]


def _split(rows: list[dict[str, Any]]) -> dict[str, Any]:
    by = {group: _by(rows, group, "kept_bytes") for group in GROUPS}
    return {**total(by["domain"].values()), "by": by}


def _by(rows: list[dict[str, Any]], column: str, length: str) -> dict[str, Count]:
    counts: dict[str, Count] = {}
    for value in _values(rows, column):
        own = [row for row in rows if (row[column] or "unknown") == value]
        counts[value] = Count(documents=sum(row["documents"] for row in own), bytes=sum(row[length] for row in own))
    return counts


def _values(rows: list[dict[str, Any]], column: str) -> list[str]:
    return sorted({row[column] or "unknown" for row in rows})


def _license_flags(kept: list[dict[str, Any]]) -> dict[str, Count]:
    """Return what the licenses of kept documents ask or forbid, as in `stages.corpus.license_flags`."""
    found: dict[str, list[Count]] = defaultdict(list)
    for row in kept:
        for flag in flags(row["license"]):
            found[flag].append(Count(documents=row["documents"], bytes=row["kept_bytes"]))
    return {flag: total(found[flag]) for flag in sorted(found)}


def _tags(paths: Sequence[Path]) -> dict[str, Count]:
    """Return how many documents have a tag, but for those that say a passage."""
    found: dict[str, list[Count]] = defaultdict(list)
    for table in trail.tables(paths, ["bytes", "tags"]):
        table = table.combine_chunks()
        holders, tags = pc.list_parent_indices(table["tags"]), pc.list_flatten(table["tags"])
        pairs = pa.table({"tag": tags, "holder": holders}).filter(pc.invert(pc.starts_with(tags, f"{CONTAMINATED}|")))
        once = pairs.group_by(["tag", "holder"]).aggregate([])
        sizes = once.append_column("bytes", table["bytes"].take(once["holder"]))
        for row in sizes.group_by("tag").aggregate([("bytes", "count"), ("bytes", "sum")]).to_pylist():
            found[row["tag"]].append(Count(documents=row["bytes_count"], bytes=row["bytes_sum"]))
    return {tag: total(found[tag]) for tag in sorted(found)}


def _opt_outs(tags: Mapping[str, Count], chains: Iterable[Chain]) -> dict[str, Count]:
    """Return what each list removed; a document of two lists counts for both."""
    names = {name for chain in chains for step in chain.steps if isinstance(step, OptOut) for name in step.lists}
    return {name: tags.get(f"{REASON}:{name}", _NONE) for name in sorted(names)}


def _clusters(paths: Sequence[Path]) -> list[dict[str, int]]:
    """Return how many clusters of equal and nearly equal documents have how many of them.

    Memory holds 8 bytes a document of a cluster: the first of its digest, which no other cluster shares.
    """
    names = [_first_bytes(table["cluster"].drop_null()) for table in trail.tables(paths, ["cluster"])]
    _, members = np.unique(np.concatenate([np.zeros(0, np.uint64), *names]), return_counts=True)
    sizes, clusters = np.unique(members, return_counts=True)
    rows = zip(sizes.tolist(), clusters.tolist(), strict=True)
    return [{"documents": size, "clusters": count} for size, count in rows]


def _first_bytes(digests: pa.ChunkedArray) -> NDArray[np.uint64]:
    return np.frombuffer(bytes.fromhex("".join(pc.utf8_slice_codeunits(digests, 0, 16).to_pylist())), ">u8")
