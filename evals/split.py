"""The held-out documents that are scored: chosen by hash of content, so that neither order nor files matter."""

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as arrow

from evals.documents import Document, digest
from evals.recompute import POOLED
from stages.errors import UserError

SCHEMA = pa.schema({name: pa.string() for name in ("id", "domain", "sha256", "text")})


def select(split: Path, limit: int, seed: int) -> dict[str, list[Document]]:
    """Return at most `limit` documents of each domain: those of the smallest digests, in that order.

    The first pass reads names only, so memory holds the chosen texts, not the split.

    Raises:
        UserError: The split holds no document, or a domain has the name of the pooled results.
    """
    table = arrow.dataset(split, schema=SCHEMA, format="parquet")
    keys = [(digest(seed, row["sha256"]), row["domain"], row["id"]) for row in _rows(table, ["id", "domain", "sha256"])]
    if not keys:
        raise UserError(f"'{split}' holds no document. Raise curate.split.test, then run `dvc repro curate`.")
    chosen: dict[str, list[str]] = {domain: [] for domain in sorted({domain for _, domain, _ in keys})}
    if POOLED in chosen:
        raise UserError(f"snapshot: the domain name '{POOLED}' is reserved for pooled results; choose another name.")
    for _, domain, identifier in sorted(keys):
        if len(chosen[domain]) < limit:
            chosen[domain].append(identifier)
    return {domain: _read(table, identifiers) for domain, identifiers in chosen.items()}


def _read(table: arrow.Dataset, identifiers: list[str]) -> list[Document]:
    wanted = arrow.field("id").isin(identifiers)
    rows = _rows(table, ["id", "domain", "sha256", "text"], wanted)
    documents = {row["id"]: Document(**row) for row in rows}
    return [documents[identifier] for identifier in identifiers]


def _rows(table: arrow.Dataset, columns: list[str], wanted: arrow.Expression | None = None) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = table.to_table(columns=columns, filter=wanted).to_pylist()
    return rows
