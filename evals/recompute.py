"""From samples to results: the one definition of every reported value, and what a verifier repeats.

Imports neither torch nor lm_eval. The samples are the files of `out/evaluate/samples/`:

- `bits_per_byte_<domain>.jsonl`, a line a document: id, bytes, tokens, log_likelihood (nats), unigram_nats, and
  xz_bytes and zstd_bytes, the sizes of the document compressed alone;
- `concatenated.jsonl`, a line a domain and one for all: bytes, xz_bytes and zstd_bytes of its documents in one piece;
- `continuation_<domain>.jsonl`, a line a question: id, document, gold, log_likelihoods (nats) and characters of the
  four choices, and lm-eval's verdicts `correct` and `correct_norm`.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

from evals.statistics import Estimate, ratio
from stages.files import read_jsonl

Sample = dict[str, Any]

POOLED = "all"
BITS_PER_BYTE = "bits_per_byte_"
CONTINUATION = "continuation_"
CONCATENATED = "concatenated"
BITS = 8  # in a byte


def results_from_samples(folder: Path) -> dict[str, Any]:
    """Return the `bits_per_byte` and `continuation` parts of results.json, by domain and pooled."""
    concatenated = {row["domain"]: row for row in read_jsonl(folder / f"{CONCATENATED}.jsonl")}
    documents = _pooled(folder, BITS_PER_BYTE)
    questions = _pooled(folder, CONTINUATION)
    return {
        "bits_per_byte": {domain: _bits_per_byte(rows, concatenated[domain]) for domain, rows in documents.items()},
        "continuation": {domain: _continuation(rows) for domain, rows in questions.items()},
    }


def _pooled(folder: Path, prefix: str) -> dict[str, list[Sample]]:
    paths = sorted(folder.glob(f"{prefix}*.jsonl"))
    domains = {path.stem.removeprefix(prefix): list(read_jsonl(path)) for path in paths}
    return {**domains, POOLED: [row for rows in domains.values() for row in rows]}


def _bits_per_byte(rows: list[Sample], concatenated: Sample) -> dict[str, Any]:
    size = [row["bytes"] for row in rows]

    def bits(nats: list[float]) -> dict[str, float]:
        return (ratio(nats, size) / math.log(2)).as_dict()

    results: dict[str, Any] = {
        "documents": len(rows),
        "bytes": sum(size),
        "model": bits([-row["log_likelihood"] for row in rows]),
        "unigram": bits([row["unigram_nats"] for row in rows]),
    }
    for name in ("xz", "zstd"):
        alone = ratio([BITS * row[f"{name}_bytes"] for row in rows], size)
        results[f"{name}_document"] = alone.as_dict()
        results[f"{name}_concatenated"] = {"value": BITS * concatenated[f"{name}_bytes"] / concatenated["bytes"]}
    return results


def _continuation(rows: list[Sample]) -> dict[str, Any]:
    return {
        "questions": len(rows),
        "documents": len({row["document"] for row in rows}),
        "chance": 1 / len(rows[0]["log_likelihoods"]),
        "accuracy": _accuracy(rows, [is_correct(row) for row in rows]).as_dict(),
        "accuracy_norm": _accuracy(rows, [is_correct_norm(row) for row in rows]).as_dict(),
    }


def is_correct(row: Sample) -> bool:
    """Return whether the gold choice is the most likely one; of equals the first counts (lm-eval's `acc`)."""
    return bool(_best(row["log_likelihoods"]) == row["gold"])


def is_correct_norm(row: Sample) -> bool:
    """Return the same for the log-likelihood per character (lm-eval's `acc_norm`)."""
    per_character = [nats / size for nats, size in zip(row["log_likelihoods"], row["characters"], strict=True)]
    return bool(_best(per_character) == row["gold"])


def _best(scores: list[float]) -> int:
    return scores.index(max(scores))


def _accuracy(rows: list[Sample], correct: list[bool]) -> Estimate:
    questions = Counter(row["document"] for row in rows)
    right = Counter(row["document"] for row, is_right in zip(rows, correct, strict=True) if is_right)
    return ratio([right[document] for document in questions], list(questions.values()))
