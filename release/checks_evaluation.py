"""The checks of a release's evaluation: tasks of the test split's documents, and samples that give the results."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evals.coverage import covered, uncovered
from evals.recompute import BITS_PER_BYTE, results_from_samples
from evals.tasks import definition_digest
from release import facts, layout
from stages.corpus.documents import text_digest
from stages.curation.benchmarks import Manifest
from stages.files import read_json, read_jsonl
from stages.settings import read_yaml

TOLERANCE = 1e-9
"""Relative: what another machine's mathematics library may change in the last bits of a recomputed value."""


def tasks(root: Path) -> Iterator[str]:
    """evaluation/tasks/ is what results.json names by digest, and its documents are those of the test split."""
    folder = root / "evaluation" / "tasks"
    stated = read_json(root / "evaluation" / "results.json")["harness"]["tasks"]
    for name, task in sorted(stated.items()):
        if (actual := definition_digest(folder, name)) != task["sha256"]:
            yield f"evaluation/tasks/{name}: sha256 is {actual}, evaluation/results.json says {task['sha256']}"
    held_out = {row["id"]: row for _, row in facts.documents(root / layout.SIDECARS / "test")}
    for path in sorted(folder.glob(f"{BITS_PER_BYTE}*.jsonl")):
        for document in read_jsonl(path):
            row = held_out.get(document["id"])
            if row is None:
                yield f"evaluation/tasks/{path.name}: document {document['id']} is not in the test split"
            elif text_digest(document["text"]) != row["sha256"]:
                yield f"evaluation/tasks/{path.name}: the text is not that of document {document['id']}"


def coverage(root: Path) -> Iterator[str]:
    """What results.json says of benchmarks and training data is what curation checked, and uncovered ones admitted."""
    stated = read_json(root / "evaluation" / "results.json")
    checked = Manifest.model_validate_json((root / "data" / "contamination.json").read_text(encoding="utf-8"))
    asked = stated["coverage"]["asked"]
    found = {"covered": covered(asked, checked), "uncovered_tasks": uncovered(asked, checked)}
    yield from _unequal("evaluation/results.json coverage", stated["coverage"], {"asked": asked, **found})
    settings = read_yaml(root / "code" / "params.yaml")["evaluate"]
    if sorted(asked) != sorted(set(settings["tasks"])):
        yield f"evaluation/results.json coverage: {sorted(asked)} are not evaluate.tasks of code/params.yaml"
    policy = settings["uncovered_tasks"]
    if found["uncovered_tasks"] and policy != "admit":
        yield f"code/params.yaml: evaluate.uncovered_tasks = '{policy}', but some are: {found['uncovered_tasks']}"


def results(root: Path) -> Iterator[str]:
    """evaluation/results.json is what the samples give, and the samples are of the tasks' documents."""
    stated = read_json(root / "evaluation" / "results.json")
    recomputed = results_from_samples(root / "evaluation" / "samples")
    for part in ("bits_per_byte", "continuation"):
        yield from _unequal(f"evaluation/results.json {part}", stated[part], recomputed[part])
    for name in sorted(stated["harness"]["tasks"]):
        asked = [row["id"] for row in read_jsonl(root / "evaluation" / "tasks" / f"{name}.jsonl")]
        answered = [row["id"] for row in read_jsonl(root / "evaluation" / "samples" / f"{name}.jsonl")]
        if asked != answered:
            yield f"evaluation/samples/{name}.jsonl: not the documents of evaluation/tasks/{name}.jsonl, in their order"


def _unequal(where: str, left: Any, right: Any) -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for name in sorted(left.keys() | right.keys()):
            yield from _unequal(f"{where}.{name}", left.get(name), right.get(name))
    elif not _same(left, right):
        yield f"{where}: states {left!r}, the samples give {right!r}"


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=TOLERANCE)
    return bool(left == right)
