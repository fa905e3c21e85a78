"""lm-eval task definitions: a YAML and a JSON-lines file each, which any lm-eval can run from their folder.

cd out/evaluate/tasks && lm_eval --include_path . --tasks bits_per_byte_code --model hf --model_args pretrained=...
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from evals.documents import Document
from evals.questions import Question
from evals.recompute import BITS_PER_BYTE, CONTINUATION
from stages.files import sha256_file, write_jsonl

VERSION = 1
"""Raised whenever a change to a task changes its values."""


def write_bits_per_byte(folder: Path, domain: str, documents: list[Document]) -> str:
    """Write the task that scores whole documents by `loglikelihood_rolling`; return its name."""
    definition = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "text",
        "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
    }
    rows = ({"id": document.id, "text": document.text} for document in documents)
    return _write(folder, f"{BITS_PER_BYTE}{domain}", definition, rows)


def write_continuation(folder: Path, domain: str, questions: list[Question]) -> str:
    """Write the multiple-choice task; return its name."""
    accuracies = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")]
    definition = {
        "output_type": "multiple_choice",
        "doc_to_text": "context",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "target_delimiter": "\n",
        "metric_list": accuracies,
    }
    return _write(folder, f"{CONTINUATION}{domain}", definition, map(vars, questions))


def _write(folder: Path, name: str, definition: dict[str, Any], rows: Iterable[dict[str, Any]]) -> str:
    write_jsonl(folder / f"{name}.jsonl", rows)
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}, "test_split": "test"}
    YAML().dump({"task": name, **source, **definition, "metadata": {"version": VERSION}}, folder / f"{name}.yaml")
    return name


def definition_digest(folder: Path, name: str) -> str:
    """Return the hex SHA-256 over `sha256  file` lines of the task's data and YAML: what the task's values rest on."""
    files = [folder / f"{name}.jsonl", folder / f"{name}.yaml"]
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
