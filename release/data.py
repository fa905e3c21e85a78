"""What the card says of the data: its way through curation, its licenses and what they ask, personal data."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from stages.corpus.licenses import flags
from stages.corpus.tally import Count, total
from stages.curation.benchmarks import Manifest

Record = dict[str, Any]
REPOSITORY = "repository_license"
"""What a release admits to when it takes a repository's license file for the license of the texts."""
GATE = "gate"
"""The license gate in curation's funnel, as `stages.curation.trail` names it."""
SPLITS = ("train", "validation", "test")


def asked(documents: Iterable[Record], sources: Record) -> dict[str, dict[str, Count]]:
    """Return what licenses ask or forbid beyond naming the authors: documents and bytes, by admission and source.

    Args:
        documents: A row for each document, with `source`, `license` and `bytes`.
        sources: The sources of the snapshot's manifest.
    """
    found: dict[str, dict[str, Count]] = defaultdict(lambda: defaultdict(lambda: Count(documents=0, bytes=0)))
    for row in documents:
        for admission in _admissions(row["license"], sources.get(row["source"], {}).get("settings", {})):
            count = found[admission][row["source"]]
            count["documents"] += 1
            count["bytes"] += row["bytes"]
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def unadmitted(found: dict[str, dict[str, Count]], admits: Iterable[str]) -> Iterator[str]:
    """Yield what of `asked` a release does not admit to, with its sources."""
    for name in sorted(found.keys() - set(admits)):
        sources = (f"'{source}' ({_amount(count)})" for source, count in found[name].items())
        yield f"{name} of {', '.join(sources)}"


def ways(curation: Record) -> list[Record]:
    """Return for each domain and source how much was read, dropped and kept, and kept in each split, in documents."""
    return [
        _way(curation, group, name, rows)
        for group in ("domain", "source")
        for name, rows in sorted(curation["funnel"]["by"][group].items())
    ]


def by_license(groups: Iterable[Any]) -> list[Record]:
    """Return documents, bytes and tokens of each license, and what it asks, of `release.facts.Group`."""
    found: dict[str, list[Any]] = defaultdict(list)
    for group in groups:
        found[group.license].append(group)
    return [
        {
            "license": license_,
            "asks": flags(license_),
            **{name: sum(getattr(group, name) for group in own) for name in ("documents", "bytes", "tokens")},
        }
        for license_, own in sorted(found.items())
    ]


def taken(name: str, source: Record, curation: Record) -> int:
    """Return how many documents of a source the license gate admitted, in the snapshot or in curation."""
    if not source["settings"].get("by_reference", False):
        documents: int = source["documents"]
        return documents
    steps = curation["funnel"]["by"]["source"].get(name, [])
    return steps[0]["entered"]["documents"] - _gated(steps) if steps else 0


def refused(name: str, source: Record, curation: Record) -> int:
    """Return how many documents of a source the license gate refused, in the snapshot or in curation."""
    in_snapshot: int = sum(reason["documents"] for reason in source["refused"].values())
    return in_snapshot + _gated(curation["funnel"]["by"]["source"].get(name, []))


def _gated(steps: list[Record]) -> int:
    return sum(step["dropped"]["documents"] for step in steps if step["step"] == GATE)


def languages(curation: Record) -> dict[str, Count]:
    """Return how much of the training split was found to be of which language; nothing where none was looked for."""
    found = curation["kept"].get("train", {"by": {"language": {}}})["by"]["language"]
    return {} if set(found) <= {"unknown"} else found


def personal_data(curate: Record) -> list[Record]:
    """Return the policy of each chain that looks for personal data: what is masked, dropped, or only counted."""
    chains = [*curate.get("chains", {}).items(), *curate.get("source_chains", {}).items()]
    return [
        {"chain": name, "policies": step["policies"]}
        for name, chain in chains
        for step in chain["steps"]
        if step["step"] == "pii"
    ]


def live_tasks(pretrain: Record, checked: Record) -> list[Record]:
    """Return the tasks that were measured in training, each with the benchmark that has its name, if one does."""
    manifest = Manifest.model_validate_json(json.dumps(checked))
    tasks = (pretrain.get("eval_tasks") or {"tasks": []})["tasks"]
    return [{"task": task, "benchmark": manifest.benchmark_of(task)} for task in tasks]


def duplicates(curation: Record) -> dict[str, int]:
    """Return how many clusters of equal and nearly equal documents there are, and of how many documents."""
    rows = curation["clusters"]
    return {
        "clusters": sum(row["clusters"] for row in rows),
        "documents": sum(row["clusters"] * row["documents"] for row in rows),
    }


def _admissions(license_: str, settings: Record) -> list[str]:
    return [*flags(license_), *([REPOSITORY] if settings.get("license_basis") == "repository" else [])]


def _amount(count: Count) -> str:
    return f"{count['documents']:,} documents, {count['bytes']:,} bytes"


def _way(curation: Record, group: str, name: str, rows: list[Record]) -> Record:
    split = {part: curation["kept"].get(part, {"by": {group: {}}})["by"][group] for part in SPLITS}
    return {
        "group": group,
        "name": name,
        "read": rows[0]["entered"]["documents"],
        "dropped": total(row["dropped"] for row in rows)["documents"],
        "kept": rows[-1]["left"]["documents"],
        **{part: counts.get(name, {"documents": 0})["documents"] for part, counts in split.items()},
    }
