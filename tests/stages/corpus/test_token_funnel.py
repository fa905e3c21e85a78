from typing import Any

import pytest

from stages.corpus.token_fates import FATES, Row
from stages.corpus.token_funnel import plotted, token_funnel
from stages.errors import UserError


def row(source: str, language: str | None, split: str | None, step: str | None, **counts: int) -> Row:
    reason = f"by {step}" if step else None
    return {**dict(zip(FATES, (source, "docs", "MIT", language, split, step, reason), strict=True)), **counts}


FATES_OF_ALL = [
    row("peps", "en", "train", None, documents=4, bytes=400, tokens=100),
    row("peps", None, "test", None, documents=1, bytes=80, tokens=21),
    row("rfcs", "en", "train", None, documents=2, bytes=90, tokens=30),
    row("peps", "en", None, "length", documents=3, bytes=12, estimated_tokens=3),
    row("peps", None, None, "duplicates", documents=1, bytes=60, estimated_tokens=15),
    row("rfcs", "en", None, "duplicates", documents=2, bytes=50, estimated_tokens=16),
]


def steps(*counts: tuple[str, int, int]) -> list[dict[str, Any]]:
    """Rows of a funnel as curation reports it: the step, what it dropped, and what left it."""
    return [
        {
            "step": step,
            "entered": {"documents": left + dropped, "bytes": 1},
            "edited": {"documents": 0, "bytes": 0},
            "dropped": {"documents": dropped, "bytes": 1},
            "left": {"documents": left, "bytes": 1},
        }
        for step, dropped, left in counts
    ]


TOTAL = steps(("length", 3, 10), ("duplicates", 3, 7))
FUNNEL: dict[str, Any] = {
    "total": TOTAL,
    "by": {
        "source": {
            "peps": steps(("length", 3, 6), ("duplicates", 1, 5)),
            "rfcs": steps(("length", 0, 4), ("duplicates", 2, 2)),
        },
        "domain": {"docs": TOTAL},
        "license": {"MIT": TOTAL},
        "language": {
            "en": steps(("length", 3, 8), ("duplicates", 2, 6)),
            "unknown": steps(("length", 0, 2), ("duplicates", 1, 1)),
        },
    },
}


def tokens(rows: list[dict[str, Any]]) -> list[list[int]]:
    return [[each[name]["estimated_tokens"] for name in ("entered", "dropped", "left")] for each in rows]


def test_what_is_kept_is_counted_by_split_and_group() -> None:
    kept = token_funnel(FATES_OF_ALL, FUNNEL)["kept"]
    assert {split: kept[split]["tokens"] for split in kept} == {"test": 21, "train": 130}
    assert kept["train"]["by"]["source"] == {
        "peps": {"documents": 4, "bytes": 400, "tokens": 100},
        "rfcs": {"documents": 2, "bytes": 90, "tokens": 30},
    }
    assert kept["test"]["by"]["language"] == {"unknown": {"documents": 1, "bytes": 80, "tokens": 21}}


def test_what_was_dropped_is_an_estimate_by_name() -> None:
    assert token_funnel(FATES_OF_ALL, FUNNEL)["dropped"] == {
        "by duplicates": {"documents": 3, "bytes": 110, "estimated_tokens": 31},
        "by length": {"documents": 3, "bytes": 12, "estimated_tokens": 3},
    }


def test_each_step_loses_what_it_dropped_down_to_what_was_measured() -> None:
    found = token_funnel(FATES_OF_ALL, FUNNEL)
    assert tokens(found["funnel"]["total"]) == [[185, 3, 182], [182, 31, 151]]
    assert tokens(found["funnel"]["by"]["source"]["rfcs"]) == [[46, 0, 46], [46, 16, 30]]
    assert tokens(found["funnel"]["by"]["language"]["unknown"]) == [[36, 0, 36], [36, 15, 21]]
    assert plotted(found) == [
        {"step": "length", "estimated_tokens": 182},
        {"step": "duplicates", "estimated_tokens": 151},
    ]


def test_a_report_of_other_documents_is_refused() -> None:
    with pytest.raises(UserError, match="report counts 7 kept documents and its trail 5"):
        token_funnel([each for each in FATES_OF_ALL if each["source"] == "peps"], FUNNEL)
