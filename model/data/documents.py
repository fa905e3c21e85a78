"""Say which documents a step was trained on, or which steps a document was in.

`python -m model.data.documents STEP` and `python -m model.data.documents --document ID`, from the repository's root.
Reads the record of a finished run, `out/pretrain/documents.parquet` (`model.data.record`), and the sidecars of its
shards. Imports no torch.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from stages.errors import UserError
from stages.files import OUT, read_json, require, sha256_file
from stages.runner import run

COLUMNS = ("step", "sample", "domain", "document", "start", "end", "id", "source", "license", "origin")
RECORD = "documents.parquet"


def main() -> None:
    """Print what was asked for."""
    options = _options()
    record = require(options.out / RECORD, "pretrain")
    shards = require(options.shards / "tokens" / "train", "shards")
    _require_same_shards(options.out, options.shards)
    if options.document is None:
        rows = documents_of_step(record, shards, options.step)
    else:
        rows = steps_of_document(record, shards, options.document)
    sys.stdout.writelines(_json_lines(rows) if options.json else _table(rows))


def documents_of_step(record: Path, shards: Path, step: int) -> list[dict[str, Any]]:
    """Return a row for each piece of a document that a step was trained on.

    Args:
        record: The Parquet file that `model.data.record.write_record` wrote.
        shards: Folder of the training shards' sidecars.
        step: Counted from 1.

    Raises:
        UserError: The run has no such step.
    """
    pieces = pq.read_table(record, filters=[("step", "=", step)])
    if len(pieces) == 0:
        first, last = _bounds(record)
        raise UserError(f"step {step} is not in '{record}', which has steps {first} to {last}; choose one of these")
    rows = []
    for domain in pc.unique(pieces["domain"]).to_pylist():
        part = pieces.filter(pc.equal(pieces["domain"], domain))
        documents = pc.unique(part["document"])
        sidecar = _sidecar(shards, domain).to_table(filter=ds.field("index").isin(documents))
        about = {row["index"]: row for row in sidecar.to_pylist()}
        rows += [_joined(piece, about[piece["document"]]) for piece in part.to_pylist()]
    # Pieces of a sample are of one domain and stand in their order, which a stable sort keeps.
    return sorted(rows, key=lambda row: row["sample"])


def steps_of_document(record: Path, shards: Path, document: str) -> list[dict[str, Any]]:
    """Return a row for each piece of a document that any step was trained on, by step.

    Raises:
        UserError: No training shard has a document of this id.
    """
    rows, found = [], False
    for sidecar in sorted(shards.glob("*.parquet")):
        domain = sidecar.stem
        for about in _sidecar(shards, domain).to_table(filter=ds.field("id") == document).to_pylist():
            found = True
            chosen = [("document", "=", about["index"]), ("domain", "=", domain)]
            rows += [_joined(piece, about) for piece in pq.read_table(record, filters=chosen).to_pylist()]
    if not found:
        raise UserError(
            f"no training document has the id '{document}'; ids are in the column `id` of '{shards}/*.parquet', and "
            "documents of the validation and test splits are never trained on"
        )
    return sorted(rows, key=lambda row: (row["step"], row["sample"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m model.data.documents", description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("step", nargs="?", type=int, metavar="STEP", help="a step, counted from 1")
    what.add_argument("--document", metavar="ID", help="the id of a document, as its corpus names it")
    parser.add_argument("--out", type=Path, default=OUT / "pretrain", help="the run (default: %(default)s)")
    parser.add_argument("--shards", type=Path, default=OUT / "shards", help="its shards (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line in place of a table")
    return parser.parse_args()


def _require_same_shards(out: Path, shards: Path) -> None:
    """Refuse shards that the run did not have: the numbers of their documents mean others."""
    trained = read_json(require(out / "run.json", "pretrain"))["settings"]["shards"]["digest"]
    index = require(shards / "index.json", "shards")
    if sha256_file(index) != trained:
        raise UserError(
            f"'{out}' was trained on shards whose index.json has SHA-256 {trained}, which '{index}' has not; name its "
            "shards with --shards, or run `dvc repro pretrain`"
        )


def _sidecar(shards: Path, domain: str) -> ds.Dataset:
    return ds.dataset(require(shards / f"{domain}.parquet", "shards"), format="parquet")


def _joined(piece: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    both = {**about, **piece}
    return {column: both[column] for column in COLUMNS}


def _bounds(record: Path) -> tuple[int, int]:
    """Return the first and the last step of a record."""
    file = pq.ParquetFile(record).metadata
    statistics = [file.row_group(group).column(0).statistics for group in range(file.num_row_groups)]
    return min(each.min for each in statistics), max(each.max for each in statistics)


def _json_lines(rows: list[dict[str, Any]]) -> Iterator[str]:
    return (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    cells = [list(COLUMNS), *([str(row[column]) for column in COLUMNS] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # end quietly when `head` has seen enough
    run(__file__, main)
