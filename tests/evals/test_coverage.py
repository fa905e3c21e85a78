import pytest

from evals.coverage import uncovered
from stages.curation.benchmarks import Checked, Manifest
from stages.errors import UserError

CHECKED = Manifest(
    ngram=13,
    benchmarks={
        "mmlu": Checked(sha256="0" * 64, tasks=("mmlu", "mmlu_*"), rows=14042, short_rows=12),
        "arc": Checked(sha256="1" * 64, tasks=("arc_easy",), rows=2376, short_rows=0),
    },
)


def test_tasks_whose_data_was_checked_are_admitted_by_name_and_by_pattern() -> None:
    assert uncovered(("mmlu_high_school_physics", "arc_easy", "mmlu"), CHECKED, "refuse") == []


def test_a_task_that_was_not_checked_is_refused_by_its_name_alone() -> None:
    with pytest.raises(UserError, match=r"data of arc_challenge, piqa, so .* evaluate\.uncovered_tasks to 'admit'"):
        uncovered(("arc_easy", "arc_challenge", "piqa"), CHECKED, "refuse")


def test_admitted_tasks_are_named_in_the_order_of_the_parameters() -> None:
    assert uncovered(("piqa", "mmlu", "arc_challenge"), CHECKED, "admit") == ["piqa", "arc_challenge"]


def test_without_evaluation_data_in_curation_no_task_is_covered() -> None:
    assert uncovered(("mmlu",), None, "admit") == ["mmlu"]
    assert uncovered((), None, "refuse") == []
    with pytest.raises(UserError, match="not checked against the data of mmlu"):
        uncovered(("mmlu",), None, "refuse")
