import pytest

from evals.coverage import check, covered, uncovered
from stages.curation.benchmarks import Checked, Manifest
from stages.errors import UserError

CHECKED = Manifest(
    ngram=13,
    benchmarks={
        "mmlu": Checked(sha256="0" * 64, tasks=("mmlu_*",), rows=14042, short_rows=12),
        "arc": Checked(sha256="1" * 64, tasks=("arc_easy",), rows=2376, short_rows=0),
        "blimp": Checked(sha256="2" * 64, tasks=("blimp",), rows=67000, short_rows=66000),
    },
)
NOTHING = Manifest(ngram=0, benchmarks={})
ASKED = {
    "mmlu": ["mmlu_anatomy", "mmlu_virology"],
    "blimp": ["blimp_adjunct_island"],
    "ai2_arc": ["arc_challenge", "arc_easy"],
    "piqa": ["piqa"],
}


def test_a_task_is_covered_by_its_name_by_a_pattern_or_by_the_name_of_its_group() -> None:
    found = covered(ASKED, CHECKED)
    assert {task: against["benchmark"] for task, against in found.items()} == {
        "mmlu_anatomy": "mmlu",
        "mmlu_virology": "mmlu",
        "blimp_adjunct_island": "blimp",
        "arc_easy": "arc",
    }
    assert found["arc_easy"]["sha256"] == "1" * 64


def test_a_task_that_is_asked_for_twice_is_covered_if_either_group_is() -> None:
    asked = {"blimp": ["blimp_adjunct_island"], "syntax": ["blimp_adjunct_island", "piqa"]}
    for order in (asked, dict(reversed(asked.items()))):
        assert uncovered(order, CHECKED) == ["piqa"]


def test_a_group_is_refused_for_the_tasks_in_it_that_were_not_checked() -> None:
    with pytest.raises(UserError, match=r"data of arc_challenge, piqa, so .* evaluate\.uncovered_tasks to 'admit'"):
        check(ASKED, CHECKED, "refuse")


def test_of_many_tasks_some_are_named() -> None:
    asked = {"physics": [f"physics_{number}" for number in range(9)]}
    with pytest.raises(UserError, match=r"physics_0, .*, physics_7 and 1 more, so"):
        check(asked, CHECKED, "refuse")


def test_admitted_tasks_are_still_known_as_uncovered() -> None:
    check(ASKED, CHECKED, "admit")
    assert uncovered(ASKED, CHECKED) == ["arc_challenge", "piqa"]


def test_without_evaluation_data_in_curation_no_task_is_covered() -> None:
    check({}, NOTHING, "refuse")
    assert uncovered({"piqa": ["piqa"]}, NOTHING) == ["piqa"]
