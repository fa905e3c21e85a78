"""The funnel of curation in tokens: measured for what is kept, estimated for what was dropped on the way."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from stages.corpus.token_fates import Row
from stages.errors import UserError

GROUPS = ("source", "domain", "license", "language")
UNKNOWN = "unknown"


def token_funnel(fates: Sequence[Row], funnel: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept and dropped, and what went through each step.

    Args:
        fates: The rows of `stages.corpus.token_fates.fates`.
        funnel: That of documents and bytes in curation's report.

    Returns:
        `kept`: documents, bytes and tokens by split, and in it `by` source, domain, license and language.
        `dropped`: documents, bytes and estimated tokens by reason. `funnel`: the one of curation's report, in which
        `entered`, `dropped` and `left` have `estimated_tokens` too; the tokens of what is kept are in them as they
        were measured, so what left the last step has no estimate in it.

    Raises:
        UserError: The funnel is not of these documents.
    """
    kept = [row for row in fates if row["split"]]
    dropped = [row for row in fates if not row["split"]]
    _check(kept, funnel)
    return {
        "kept": {split: _split(own) for split, own in _by(kept, "split").items()},
        "dropped": {reason: _sums(own, "estimated_tokens") for reason, own in _by(dropped, "reason").items()},
        "funnel": {
            "total": _with_estimates(funnel["total"], fates),
            "by": {group: _with_estimates_by(funnel["by"][group], _by(fates, group)) for group in GROUPS},
        },
    }


def plotted(found: dict[str, Any]) -> list[Row]:
    """Return the estimated tokens that left each step, as DVC plots them."""
    rows = found["funnel"]["total"]
    return [{"step": row["step"], "estimated_tokens": row["left"]["estimated_tokens"]} for row in rows]


def _check(kept: Sequence[Row], funnel: dict[str, Any]) -> None:
    documents, left = sum(row["documents"] for row in kept), funnel["total"][-1]["left"]["documents"]
    if documents != left:
        raise UserError(
            f"Curation's report counts {left} kept documents and its trail {documents}. Run `dvc repro -f -s curate`."
        )


def _split(rows: Sequence[Row]) -> dict[str, Any]:
    by = {group: {value: _sums(own, "tokens") for value, own in _by(rows, group).items()} for group in GROUPS}
    return {**_sums(rows, "tokens"), "by": by}


def _sums(rows: Sequence[Row], tokens: str) -> dict[str, int]:
    return {name: sum(row[name] for row in rows) for name in ("documents", "bytes", tokens)}


def _by(rows: Sequence[Row], column: str) -> dict[str, list[Row]]:
    """Return the rows of each value of a column, in the values' order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row[column] or UNKNOWN, []).append(row)
    return dict(sorted(found.items()))


def _with_estimates_by(funnels: dict[str, list[Row]], fates: dict[str, list[Row]]) -> dict[str, list[Row]]:
    return {value: _with_estimates(rows, fates[value]) for value, rows in funnels.items()}


def _with_estimates(rows: Sequence[Row], fates: Sequence[Row]) -> list[Row]:
    """Return the rows of a funnel with tokens, from the last step, which only what is kept left, to the first."""
    dropped = Counter[str]()
    for row in fates:
        dropped[row["step"]] += row.get("estimated_tokens", 0)
    left = sum(row.get("tokens", 0) for row in fates)
    found = []
    for row in reversed(rows):
        estimates = {"left": left, "dropped": dropped[row["step"]], "entered": left + dropped[row["step"]]}
        found.append({**row, **{name: {**row[name], "estimated_tokens": estimates[name]} for name in estimates}})
        left = estimates["entered"]
    return found[::-1]
