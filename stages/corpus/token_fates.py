"""Tokens of what curation kept, by split, domain, source, license and language, and an estimate for what it dropped.

The trail of curation has a row for every document that it read. Those that it kept in a split are, in order, the
documents of the split's shards, which know their tokens; the two are read side by side, a row group at a time.
Dropped documents are never tokenised: their tokens are estimated from their bytes, under another name.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.errors import UserError

FATES = ("source", "domain", "license", "language", "split", "step", "reason")
"""What documents are counted by: a split is that of kept ones, a step and a reason those of dropped ones."""
_LENGTH = "kept_bytes"  # of a text as the last step left it, whether it was kept or dropped
_SUMS = [(_LENGTH, "count"), (_LENGTH, "sum"), ("tokens", "sum")]

Row = dict[str, Any]


def fates(trail: Sequence[Path], sidecars: Mapping[tuple[str, str], Path]) -> list[Row]:
    """Count documents, bytes and tokens of each combination of `FATES` that occurs, in their order.

    Args:
        trail: The files of the trail, in the order of their parts.
        sidecars: Those of the shards, by split and domain; the documents of each are in the order of parts too.

    Returns:
        Rows with the names of `FATES`, `documents`, and the `bytes` of their texts as the last step left them. Kept
        ones have `tokens`, with the ends of documents. Dropped ones have `estimated_tokens`: their bytes times the
        tokens a byte of what is kept of the source, or of the domain, or at all, the first of which there is any.

    Raises:
        UserError: The documents of the trail are not those of the shards.
    """
    counts: dict[tuple[Any, ...], Counter[str]] = {}
    for group in _groups(trail, sidecars):
        count = counts.setdefault(tuple(group[name] for name in FATES), Counter())
        count["documents"] += group[f"{_LENGTH}_count"]
        count["bytes"] += group[f"{_LENGTH}_sum"]
        count["tokens"] += group["tokens_sum"]
    order = sorted(counts, key=lambda key: [value or "" for value in key])
    rows = [{**dict(zip(FATES, key, strict=True)), **counts[key]} for key in order]
    return _estimated(rows)


def _groups(trail: Sequence[Path], sidecars: Mapping[tuple[str, str], Path]) -> Iterator[Row]:
    """Yield sums over parts of the trail: of dropped documents, and of kept ones with their tokens."""
    shards = {key: _Shard(path) for key, path in sidecars.items()}
    for path in trail:
        for table in _tables(path, ["id", *FATES, _LENGTH]):
            for some in _with_tokens(table, shards, path):
                yield from some.group_by(list(FATES)).aggregate(_SUMS).to_pylist()
    for (split, domain), shard in shards.items():
        if shard.take(1).num_rows:
            raise _mismatch(f"the shard of '{domain}' in '{split}' has more documents than its trail")


def _tables(path: Path, columns: list[str]) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as parquet:
        for number in range(parquet.num_row_groups):
            yield parquet.read_row_group(number, columns=columns)


def _with_tokens(table: pa.Table, shards: "Mapping[tuple[str, str], _Shard]", path: Path) -> Iterator[pa.Table]:
    """Yield the dropped documents, with no tokens, and the kept ones of each shard with theirs."""
    is_kept = pc.is_valid(table["split"])
    dropped, kept = table.filter(pc.invert(is_kept)), table.filter(is_kept)
    yield dropped.append_column("tokens", pa.array([0] * dropped.num_rows, pa.int64()))
    for split, domain in sorted(set(zip(kept["split"].to_pylist(), kept["domain"].to_pylist(), strict=True))):
        own = kept.filter(pc.and_(pc.equal(kept["split"], split), pc.equal(kept["domain"], domain)))
        found = shards[split, domain].take(own.num_rows) if (split, domain) in shards else None
        if found is None or not own["id"].equals(found["id"]):
            raise _mismatch(
                f"the documents of '{path}' that are kept in '{split}' are not those of the shard '{domain}'"
            )
        yield own.append_column("tokens", found["tokens"])


class _Shard:
    """The ids and tokens of a shard's documents, as many at a time as are asked for."""

    def __init__(self, path: Path) -> None:
        self._tables = _tables(path, ["id", "tokens"])
        self._left = pa.table({"id": pa.array([], pa.string()), "tokens": pa.array([], pa.int64())})

    def take(self, documents: int) -> pa.Table:
        """Return the next documents, or those that are left."""
        while self._left.num_rows < documents and (more := next(self._tables, None)) is not None:
            self._left = pa.concat_tables([self._left, more])
        found, self._left = self._left.slice(0, documents), self._left.slice(documents)
        return found


def _mismatch(what: str) -> UserError:
    return UserError(f"Documents and trail of curation do not agree: {what}. Run `dvc repro -f -s curate`.")


def _estimated(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with measured tokens where they are kept, and estimated ones where they are dropped."""
    sources, domains, every = (_rates(rows, name) for name in ("source", "domain", None))
    found = []
    for row in rows:
        tokens = row.pop("tokens")
        if row["split"]:
            found.append({**row, "tokens": tokens})
        else:
            rate = sources.get(row["source"]) or domains.get(row["domain"]) or every[None]
            found.append({**row, "estimated_tokens": round(row["bytes"] * rate)})
    return found


def _rates(rows: Sequence[Row], column: str | None) -> dict[str | None, float]:
    """Return the tokens a byte of what is kept, by the values of a column."""
    tokens, length = Counter[str | None](), Counter[str | None]()
    for row in rows:
        if row["split"]:
            value = row[column] if column else None
            tokens[value] += row["tokens"]
            length[value] += row["bytes"]
    return {value: tokens[value] / length[value] for value in tokens if length[value]}
