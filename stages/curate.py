"""Filter, edit, deduplicate and split the snapshot: `python -m stages.curate [--explain ID]`.

Reads out/snapshot/ and, where sources are taken by reference, the files that it names. Writes to out/curate/:

- documents/{train,validation,test}/<domain>-<00000>.parquet: the kept documents, same columns as the snapshot's
- trail/<00000>.parquet: a row for every document that was read: what each step measured and did, its cluster of
  duplicates, and where it went or why it was dropped; `--explain` shows that of one document. Of those that went to
  a split, rows are in the order of the part's documents there
- report.json: documents and bytes that enter each step, that it edits, drops and leaves, by source, domain, license
  and language; kept by split, dropped by reason, found by tag, removed by each opt-out list; what licenses ask,
  lengths, clusters of duplicates, what was found of each benchmark, and encodings of what is taken by reference
- contamination.json: the evaluation data that all documents were checked against, and by which n-grams
- contaminated.jsonl: each passage of evaluation data: benchmark, row, passage, document and what was done
- classifiers/: those that were trained, with what held-out examples say of them; index.json says for which sources
- dropped.jsonl: for each reason, a sample of the documents that were dropped
- metrics.json: the report's totals
- plots/: documents that were read and that left each step, dropped documents by reason, lengths of documents
- scratch/: finished pieces of work; a run that was killed goes on from them, and the next run takes those that still
  hold. No output of the graph
"""

import argparse
import json
import sys

from pydantic import Field

from stages.corpus.sources import Name
from stages.curation.chain import Chain
from stages.curation.engine import Engine
from stages.curation.minhash import Deduplication
from stages.curation.split import Split
from stages.files import OUT, output, read_json, require
from stages.runner import run
from stages.settings import Settings, load
from stages.snapshot import SnapshotSettings

SNAPSHOT, FOLDER = OUT / "snapshot", OUT / "curate"


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
    from stages.curation import inputs, records
    from stages.curation.curator import curate
    from stages.curation.engine import started

    sources = read_json(require(SNAPSHOT / "manifest.json", "snapshot"))["sources"]
    chains = inputs.chains_by_source(sources, settings.chains, settings.source_chains)
    parts = inputs.parts(SNAPSHOT, sources, chains, load("snapshot", SnapshotSettings))
    scratch = FOLDER / "scratch"
    with output("curate") as folder:
        with started(settings.engine) as workers:
            encodings = curate(parts, settings.duplicates, settings.split, workers, scratch, folder)
        metrics = records.write(chains, encodings, settings.dropped_sample, folder)
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


if __name__ == "__main__":
    run(__file__, explain if sys.argv[1:] else main)
