"""Filter, edit, deduplicate and split the snapshot: `python -m stages.curate [--explain ID]`.

Reads out/snapshot/. Writes to out/curate/:

- documents/{train,validation,test}/<domain>-<00000>.parquet: the kept documents, same columns as the snapshot's
- trail/<00000>.parquet: a row for every document that was read: what each step measured and did, its cluster of
  duplicates, and where it went or why it was dropped; `--explain` shows that of one document
- report.json: documents and bytes kept by split, domain, source, license and language, dropped by reason, every way
  through the steps, and clusters of duplicates
- dropped.jsonl: for each reason, a sample of the documents that were dropped
- metrics.json: the report's totals
- plots/: dropped documents by reason, lengths of documents
- scratch/: finished pieces of work; a run that was killed goes on from them, and the next run takes those that still
  hold. No output of the graph
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.corpus.sources import Name
from stages.curation.chain import Chain
from stages.curation.engine import Engine
from stages.curation.minhash import Deduplication
from stages.curation.split import Split
from stages.errors import UserError
from stages.files import OUT, output, read_json, require, sha256_file, write_json, write_jsonl
from stages.runner import run
from stages.settings import Settings, load

FOLDER = OUT / "curate"


class CurateSettings(Settings):
    """Section `curate` of params.yaml."""

    chains: dict[Name, Chain]
    """What documents go through, by domain; every domain of the snapshot has an entry."""
    source_chains: dict[Name, Chain] = Field(default={})
    """Chains of single sources, in place of their domain's."""
    duplicates: Deduplication
    """Which of equal and nearly equal texts survives."""
    split: Split
    """The held-out fractions."""
    dropped_sample: int = Field(gt=0)
    """Dropped documents listed for each reason, at most."""
    engine: Engine
    """Who does the work; the result does not depend on it."""


def main() -> None:
    """Curate the snapshot."""
    settings = load("curate", CurateSettings)
    from stages.curation.curator import curate
    from stages.curation.engine import started

    parts = _parts(settings)
    scratch = FOLDER / "scratch"
    with output("curate") as folder:
        with started(settings.engine) as workers:
            curate(parts, settings.duplicates, settings.split, workers, scratch, folder)
        metrics = _report(settings, folder)
        scratch.rename(folder / "scratch")
    print(f"curate: kept {metrics['kept']['documents']:,} documents, dropped {metrics['dropped']['documents']:,}")


def explain() -> None:
    """Print what happened to a document."""
    from stages.curation import trail

    parser = argparse.ArgumentParser(prog="python -m stages.curate")
    parser.add_argument("--explain", metavar="ID", required=True, help="say what happened to the document with this id")
    identity = parser.parse_args().explain
    paths = sorted(require(FOLDER / "trail", "curate").glob("*.parquet"))
    print(json.dumps(trail.explain(paths, identity), indent=2, ensure_ascii=False))


def _parts(settings: CurateSettings) -> list[Any]:
    """Return the shards of the snapshot in the order of their sources, each with the chain for its documents."""
    from stages.curation.parts import Part

    manifest = read_json(require(OUT / "snapshot" / "manifest.json", "snapshot"))["sources"]
    parts = []
    for source in sorted(manifest):
        domain = manifest[source]["settings"]["domain"]
        chain = settings.source_chains.get(source) or settings.chains.get(domain)
        if chain is None:
            raise UserError(
                f"curate.chains has no '{domain}', the domain of source '{source}'. "
                f"Add its chain; `{domain}: {{steps: []}}` keeps everything."
            )
        for name, file in sorted(manifest[source]["files"].items()):
            path = require(OUT / "snapshot" / "documents" / name, "snapshot")
            if sha256_file(path) != file["sha256"]:
                raise UserError(f"'{path}' is not the file of the snapshot's manifest. Run `dvc repro snapshot`.")
            parts.append(Part(path, file["sha256"], domain, chain))
    unknown = sorted(settings.source_chains.keys() - manifest.keys())
    if unknown:
        raise UserError(f"curate.source_chains has {unknown}, which are no sources; known are {sorted(manifest)}.")
    return parts


def _report(settings: CurateSettings, folder: Path) -> dict[str, Any]:
    from stages.curation import report, trail

    paths = sorted((folder / "trail").glob("*.parquet"))
    found = report.report(paths)
    metrics = report.totals(found)
    write_json(folder / "report.json", found)
    write_json(folder / "metrics.json", metrics)
    write_jsonl(folder / "dropped.jsonl", trail.gallery(paths, settings.dropped_sample))
    write_json(folder / "plots" / "drop_reasons.json", report.reasons(found))
    write_json(folder / "plots" / "lengths.json", trail.lengths(paths))
    return metrics


if __name__ == "__main__":
    run(__file__, explain if sys.argv[1:] else main)
