"""What `release.verify` recomputes of the training: its log, which documents each step saw, and its mixture."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.data import mixture as recorded
from model.job import Job
from model.plan import Plan
from release import layout
from stages.files import read_json, read_jsonl

Column = NDArray[np.int64]


def log(root: Path) -> Iterator[str]:
    """training/log.jsonl has every step of the plan but those that a guard left out, and ends as the metrics say.

    The log of a run that branched off a checkpoint begins after it.
    """
    metrics, rows = read_json(root / "training" / "metrics.json"), _rows(root)
    plan, left_out = _plan(root), _left_out(rows)
    start = _job(root).pretrain.start
    first = rows[0]["step"] if start and start.kind == "checkpoint" else 1
    steps = [row["step"] for row in rows]
    if steps != [step for step in range(first, plan.steps + 1) if step not in left_out]:
        yield (
            f"training/log.jsonl: its {len(rows)} steps are not the {first} to {plan.steps} of training/run.json"
            + (f" without {sorted(left_out)}" if left_out else "")
        )
        return
    for row in rows:
        if row["tokens"] != (planned := plan.at(row["step"]).tokens):
            yield f"training/log.jsonl: step {row['step']} ends at {row['tokens']} tokens, the plan says {planned}"
    if (rows[-1]["step"], rows[-1]["tokens"]) != (metrics["steps"], metrics["tokens"]):
        yield (
            f"training/log.jsonl: ends at step {rows[-1]['step']} and {rows[-1]['tokens']} tokens, "
            f"training/metrics.json says {metrics['steps']} and {metrics['tokens']}"
        )
    last = rows[-1]["validation"]
    for name in ("loss", "bits_per_byte"):
        if last[name] != metrics[f"validation_{name}"]:
            yield (
                f"training/log.jsonl: the last validation {name} is {last[name]}, "
                f"training/metrics.json says {metrics[f'validation_{name}']}"
            )


def documents(root: Path) -> Iterator[str]:
    """Every step's pieces of documents are pieces of training documents, and add up to the tokens of its batch."""
    record, plan = pq.ParquetFile(root / layout.STEP_DOCUMENTS), _plan(root)
    folder = root / layout.SIDECARS / "train"
    lengths = {path.stem: pq.read_table(path)["tokens"].to_numpy() for path in sorted(folder.glob("*.parquet"))}
    predicted = np.zeros(plan.steps + 1, dtype=np.int64)
    for group in range(record.num_row_groups):
        table = record.read_row_group(group)
        document, start, end, step = (table[name].to_numpy() for name in ("document", "start", "end", "step"))
        domains = np.asarray(table["domain"].to_pylist())
        for domain in sorted(set(domains.tolist())):
            rows = domains == domain
            known = lengths.get(domain, np.zeros(0, dtype=np.int64))
            if outside := _outside(known, document[rows], start[rows], end[rows]):
                yield f"{layout.STEP_DOCUMENTS}: {outside} pieces of domain '{domain}' are of no training document"
        np.add.at(predicted, step, end - start)
    for row in _rows(root):
        planned = plan.at(row["step"])
        expected = planned.global_batch_size * plan.phases[planned.phase].seq_length
        if predicted[row["step"]] != expected:
            found = int(predicted[row["step"]])
            yield f"{layout.STEP_DOCUMENTS}: step {row['step']} has {found} tokens, its batch has {expected}"


def mixture(root: Path) -> Iterator[str]:
    """training/mixture.json is what the run was asked for, and what its steps' documents add up to."""
    stated = read_json(root / "training" / "mixture.json")
    found = recorded.read(_job(root), root / layout.STEP_DOCUMENTS, root / layout.SIDECARS / "train")
    for part in sorted(stated.keys() | found.keys()):
        if stated.get(part) != found.get(part):
            yield f"training/mixture.json: its {part} are not those of training/run.json and {layout.STEP_DOCUMENTS}"


def _outside(lengths: Column, document: Column, start: Column, end: Column) -> int:
    """Return how many pieces do not lie in a document of these lengths."""
    known = (document >= 0) & (document < len(lengths))
    bad = ~known | (start < 0) | (start >= end)
    bad[known] |= end[known] > lengths[document[known]]
    return int(bad.sum())


def _rows(root: Path) -> list[dict[str, Any]]:
    return list(read_jsonl(root / "training" / "log.jsonl"))


def _job(root: Path) -> Job:
    return Job.model_validate(read_json(root / "training" / "run.json")["settings"])


def _plan(root: Path) -> Plan:
    return _job(root).plan


def _left_out(rows: list[dict[str, Any]]) -> set[int]:
    """Return the steps whose update a guard left out."""
    events = [event for row in rows for event in row.get("events", [])]
    return {event["step"] for event in events if event["action"] == "skip"}
