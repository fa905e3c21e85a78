"""Writes what curation has to show: its report, plots and samples, what was checked, and the classifiers it trained."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stages.curation import contamination, findings, funnel, report, trail
from stages.curation.chain import Chain
from stages.curation.contamination import Contamination
from stages.curation.curator import Encodings
from stages.curation.quality import LearnedQuality
from stages.curation.toxicity import Toxicity
from stages.files import read_jsonl, write_json, write_jsonl

CLASSIFIERS = "classifiers"
CONTAMINATED = "contaminated.jsonl"


def write(chains: Mapping[str, Chain], encodings: Encodings, sample: int, folder: Path) -> dict[str, Any]:
    """Write all but the documents and the trail, of which it is counted, and return the totals.

    Args:
        chains: What the documents of each source went through.
        encodings: Of sources that are taken by reference; the snapshot's manifest has those of others.
        sample: Dropped documents listed for each reason, at most.
        folder: Where the documents and the trail are.

    Raises:
        UserError: Evaluation data or examples are not those that a chain pins.
    """
    paths = sorted((folder / "trail").glob("*.parquet"))
    found = report.report(paths, chains)
    found |= {"contamination": _contamination(paths, chains, folder), "encodings": encodings}
    metrics = report.totals(found)
    write_json(folder / "report.json", found)
    write_json(folder / "metrics.json", metrics)
    write_jsonl(folder / "dropped.jsonl", trail.gallery(paths, sample))
    write_json(folder / "plots" / "drop_reasons.json", report.reasons(found))
    write_json(folder / "plots" / "lengths.json", found["lengths"])
    write_json(folder / "plots" / "funnel.json", funnel.plotted(found["funnel"]["total"]))
    _classifiers(chains, folder / CLASSIFIERS)
    return metrics


def _contamination(paths: list[Path], chains: Mapping[str, Chain], folder: Path) -> dict[str, Any]:
    """Write what documents were checked against, and each finding; return the counts."""
    manifest = contamination.coverage(chains.values())
    write_json(folder / "contamination.json", manifest.model_dump(mode="json"))
    write_jsonl(folder / CONTAMINATED, findings.findings(paths))
    steps = [step for chain in chains.values() for step in chain.steps if isinstance(step, Contamination)]
    names = {name for step in steps for name in step.benchmarks}
    return findings.by_benchmark(read_jsonl(folder / CONTAMINATED), names)


def _classifiers(chains: Mapping[str, Chain], folder: Path) -> None:
    """Write each classifier that was trained, once, under a digest of its settings, and whose documents it scored."""
    trained: dict[str, LearnedQuality] = {}
    sources: dict[str, set[str]] = defaultdict(set)
    for source, chain in chains.items():
        for settings in _learned(chain):
            text = json.dumps(settings.training(), sort_keys=True)
            name = hashlib.sha256(text.encode()).hexdigest()[:16]
            trained[name] = settings
            sources[name].add(source)
    for name, settings in trained.items():
        classifier, held_out = settings.classifier()
        classifier.write(folder / name, held_out)
    index = {name: {"sources": sorted(sources[name]), "settings": each.training()} for name, each in trained.items()}
    write_json(folder / "index.json", index)


def _learned(chain: Chain) -> Iterator[LearnedQuality]:
    for step in chain.steps:
        if isinstance(step, LearnedQuality):
            yield step
        elif isinstance(step, Toxicity):
            yield step.quality()
