from typing import Any

import pytest

from evals.report import bars, check_against_lm_eval, headline, lines


@pytest.fixture
def results() -> dict[str, Any]:
    part = {
        "documents": 4,
        "bytes": 400,
        "model": {"value": 1.5, "stderr": 0.1},
        "xz_document": {"value": 2.0, "stderr": 0.1},
        "zstd_concatenated": {"value": 1.75},
    }
    asked = {
        "questions": 4,
        "documents": 4,
        "chance": 0.25,
        "accuracy": {"value": 0.5, "stderr": 0.2},
        "accuracy_norm": {"value": 0.25, "stderr": 0.3},
    }
    return {"bits_per_byte": {"code": part, "all": part}, "continuation": {"code": asked, "all": asked}}


@pytest.fixture
def theirs() -> dict[str, dict[str, Any]]:
    asked = {"acc,none": 0.5, "acc_stderr,none": 0.2, "acc_norm,none": 0.25, "acc_norm_stderr,none": 0.3}
    return {"bits_per_byte_code": {"bits_per_byte,none": 1.5}, "continuation_code": asked}


def test_equal_values_pass(results: dict[str, Any], theirs: dict[str, dict[str, Any]]) -> None:
    check_against_lm_eval(results, theirs)


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("bits_per_byte_code", "bits_per_byte"),
        ("continuation_code", "acc"),
        ("continuation_code", "acc_norm"),
        ("continuation_code", "acc_stderr"),
        ("continuation_code", "acc_norm_stderr"),
    ],
)
def test_any_difference_from_lm_eval_is_a_failure(
    results: dict[str, Any], theirs: dict[str, dict[str, Any]], task: str, metric: str
) -> None:
    theirs[task][f"{metric},none"] *= 1 + 1e-9
    with pytest.raises(RuntimeError, match=task):
        check_against_lm_eval(results, theirs)


def test_lm_eval_has_no_error_for_questions_that_share_a_document(
    results: dict[str, Any], theirs: dict[str, dict[str, Any]]
) -> None:
    results["continuation"]["code"]["documents"] = 3
    theirs["continuation_code"]["acc_stderr,none"] = 0.19
    check_against_lm_eval(results, theirs)


def test_summaries_hold_every_domain(results: dict[str, Any]) -> None:
    assert headline(results)["bits_per_byte"]["code"] == {"model": 1.5, "xz_document": 2.0, "zstd_concatenated": 1.75}
    assert headline(results)["accuracy"] == {"code": 0.5, "all": 0.5}
    assert len(bars(results)) == 6
    assert bars(results)[0] == {"bar": "code: model", "domain": "code", "model": "model", "bits_per_byte": 1.5}
    assert lines(results)[0].startswith("code: 1.500 ± 0.100 bits per byte of 4 documents (xz -9e 2.000)")
