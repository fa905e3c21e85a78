import pytest

from stages.curation.gopher_quality import GopherQuality
from stages.curation.step import KEEP, Verdict
from tests.stages.curation.documents import DECLARATION, document


def judge(text: str, **thresholds: object) -> Verdict:
    step = GopherQuality.model_validate({"step": "gopher_quality", **thresholds}).build()
    return step([document(text)])[0]


@pytest.mark.parametrize(
    ("text", "reason", "number"),
    [
        ("Too short.", "gopher_short_doc", 2),
        ("word " * 100_001, "gopher_long_doc", 100_001),
        ("a b " * 30, "gopher_below_avg_threshold", 1),
        ("antidisestablishmentarianism " * 50, "gopher_above_avg_threshold", 28),
        ("# heading word\n" * 50, "gopher_too_many_hashes", 1 / 3),
        ("goes on and ... " * 50, "gopher_too_many_ellipsis", 1 / 4),
        ("- one two three\n" * 50, "gopher_too_many_bullets", 1),
        ("one two three four five six seven eight nine ten ...\n" * 10, "gopher_too_many_end_ellipsis", 1),
        ("100 200 300 and " * 50, "gopher_below_alpha_threshold", 1 / 4),
        ("one two three and " * 50, "gopher_enough_stop_words", 1),
        ("One two three The And To " * 50, "gopher_enough_stop_words", 0),
    ],
)
def test_reasons_and_numbers(text: str, reason: str, number: float) -> None:
    assert judge(text) == Verdict(reason, {reason: number})


def test_prose_is_kept() -> None:
    assert judge(DECLARATION) == KEEP


def test_texts_without_words_are_short_and_else_have_no_letters() -> None:
    assert judge("").reason == "gopher_short_doc"
    assert judge(" \n", min_doc_words=None).reason == "gopher_below_alpha_threshold"
    assert judge("", min_doc_words=None, max_non_alpha_words_ratio=None, min_stop_words=None) == KEEP


def test_stop_words_are_a_parameter() -> None:
    german = "Alle Menschen sind frei und gleich an Rechten geboren und mit Vernunft begabt. " * 5
    assert judge(german).reason == "gopher_enough_stop_words"
    assert judge(german, stop_words=("und", "mit")) == KEEP
