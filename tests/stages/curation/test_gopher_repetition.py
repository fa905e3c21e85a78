import pytest
from pydantic import ValidationError

from stages.curation.gopher_repetition import GopherRepetition
from stages.curation.step import KEEP, Verdict
from tests.stages.curation.documents import DECLARATION, document


def judge(*texts: str, **thresholds: object) -> list[Verdict]:
    step = GopherRepetition.model_validate({"step": "gopher_repetition", **thresholds}).build()
    return step([document(text) for text in texts])


def test_reasons_and_numbers() -> None:
    assert judge("", "a\n\nb\n\na\n\na", "one\ntwo\none\none", "go to, go to, go to", DECLARATION) == [
        Verdict("empty"),
        Verdict("dup_para_frac", {"dup_para_frac": 2 / 4}),
        Verdict("dup_line_frac", {"dup_line_frac": 2 / 4}),
        Verdict("top_2_gram", {"top_2_gram": 3 * len("go to") / 19}),
        KEEP,
    ]


def test_line_ends_at_an_end_have_an_empty_line() -> None:
    (verdict,) = judge("\none\ntwo\n\n", dup_line_frac=0.2)
    assert verdict == Verdict("dup_line_frac", {"dup_line_frac": 1 / 4})


def test_top_n_gram_is_the_first_of_the_most_frequent() -> None:
    (verdict,) = judge("a bb a bb ccc dd ccc dd", top_n_grams=((2, 0.01),))
    assert verdict == Verdict("top_2_gram", {"top_2_gram": 2 * len("a bb") / 23})


def test_repeated_n_grams_do_not_overlap() -> None:
    (verdict,) = judge("x y x y x y x y", top_n_grams=(), dup_n_grams=((2, 0.1),))
    assert verdict == Verdict("duplicated_2_n_grams", {"duplicated_2_n_grams": 6 / 15})


def test_batch_gives_what_its_parts_would() -> None:
    texts = [DECLARATION, f"{DECLARATION} {DECLARATION}", "", DECLARATION.upper(), "x " * 40, DECLARATION]
    assert judge(*texts) == [verdict for text in texts for verdict in judge(text)]


def test_null_does_not_ask() -> None:
    (verdict,) = judge("a\n\nb\n\na\n\na", dup_para_frac=None)
    assert verdict.reason == "dup_line_frac"


@pytest.mark.parametrize("thresholds", [{"dup_line_frac": 0.0}, {"dup_line_frac": 1.5}, {"top_n_grams": ((0, 0.2),)}])
def test_thresholds_are_fractions(thresholds: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        judge("", **thresholds)
