"""What a reader sees: the check against lm-eval's own values, the headline numbers and the plot."""

import math
from typing import Any

from evals.recompute import BITS_PER_BYTE, CONTINUATION, POOLED

TOLERANCE = 1e-12
"""Relative: two orders of summing the same numbers, no more."""


def check_against_lm_eval(results: dict[str, Any], theirs: dict[str, dict[str, Any]]) -> None:
    """Compare every value that lm-eval reports too; its error of an accuracy only where documents have one question.

    Raises:
        RuntimeError: A value differs, so one of the two definitions is not what this pipeline says it is.
    """
    for domain in results["bits_per_byte"].keys() - {POOLED}:
        name = f"{BITS_PER_BYTE}{domain}"
        _check(name, results["bits_per_byte"][domain]["model"]["value"], theirs[name]["bits_per_byte,none"])
    for domain in results["continuation"].keys() - {POOLED}:
        name, ours = f"{CONTINUATION}{domain}", results["continuation"][domain]
        for key, metric in (("accuracy", "acc"), ("accuracy_norm", "acc_norm")):
            _check(name, ours[key]["value"], theirs[name][f"{metric},none"])
            if ours["questions"] == ours["documents"]:
                _check(name, ours[key]["stderr"], theirs[name][f"{metric}_stderr,none"])


def _check(name: str, ours: float, theirs: float) -> None:
    if not math.isclose(ours, theirs, rel_tol=TOLERANCE):
        raise RuntimeError(f"{name}: the samples give {ours!r}, lm-eval reports {theirs!r}.")


def headline(results: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers for `dvc metrics show`: by domain, without errors."""
    return {
        "bits_per_byte": {domain: _values(part) for domain, part in results["bits_per_byte"].items()},
        "accuracy": {domain: part["accuracy"]["value"] for domain, part in results["continuation"].items()},
    }


def bars(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the plot: bits per byte by domain and model; `bar` names both."""
    return [
        {"bar": f"{domain}: {model}", "domain": domain, "model": model, "bits_per_byte": value}
        for domain, part in results["bits_per_byte"].items()
        for model, value in _values(part).items()
    ]


def _values(part: dict[str, Any]) -> dict[str, float]:
    return {model: entry["value"] for model, entry in part.items() if isinstance(entry, dict)}


def lines(results: dict[str, Any]) -> list[str]:
    """Return one line a domain for the person who started the stage."""
    return [
        f"{domain}: {_plus_minus(part['model'])} bits per byte of {part['documents']} documents "
        f"(xz -9e {part['xz_document']['value']:.3f}); continuation "
        f"{_plus_minus(results['continuation'][domain]['accuracy'])} of {results['continuation'][domain]['questions']} "
        f"questions (chance {results['continuation'][domain]['chance']})"
        for domain, part in results["bits_per_byte"].items()
    ]


def _plus_minus(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ± {estimate['stderr']:.3f}"
