"""lm-eval task definitions: a YAML and a JSON-lines file each, with which any lm-eval repeats the evaluation.

In the folder of the definitions: `lm_eval run --include_path . --tasks bits_per_byte_<domain> --model hf
--model_args pretrained=<model directory>,dtype=float32,add_bos_token=False`.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from evals.documents import Document
from evals.questions import HeldOut, Question
from evals.recompute import BITS_PER_BYTE, CONTINUATION
from stages.files import sha256_file, write_jsonl

VERSION = 1
"""Raised whenever a change to a task changes its values."""


def write(folder: Path, held_out: HeldOut) -> list[str]:
    """Write a bits-per-byte and a continuation task for each domain; return their names."""
    scored = [write_bits_per_byte(folder, domain, documents) for domain, documents in held_out.documents.items()]
    asked = [write_continuation(folder, domain, questions) for domain, questions in held_out.questions.items()]
    return scored + asked


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
    """Return the hex SHA-256 over the `sha256  file` lines of a task's data and its YAML."""
    paths = [folder / f"{name}.jsonl", folder / f"{name}.yaml"]
    lines = [f"{sha256_file(path)}  {path.name}\n" for path in paths]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
