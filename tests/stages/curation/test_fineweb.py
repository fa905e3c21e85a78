import pytest

from stages.curation.fineweb import FineWeb
from stages.curation.step import KEEP, Verdict
from tests.stages.curation.documents import DECLARATION, document


def judge(text: str, **thresholds: object) -> Verdict:
    return FineWeb.model_validate({"step": "fineweb", **thresholds}).build()([document(text)])[0]


@pytest.mark.parametrize(
    ("text", "reason", "number"),
    [
        ("Home\nAbout us\nContact", "line_punct_ratio", 0),
        ("Yes.\n \nNo.\nPerhaps this line is long enough to be a line of prose.\nMaybe.", "short_line_ratio", 3 / 4),
        (f"{DECLARATION}\n{DECLARATION}\n", "char_dup_ratio", 1 / 2),
        (f"{DECLARATION}\n\n{'antidisestablishmentarianism' * 2}。" + "\n" * 30, "list_ratio", 32 / 67),
    ],
)
def test_reasons_and_numbers(text: str, reason: str, number: float) -> None:
    assert judge(text) == Verdict(reason, {reason: number})


def test_text_without_lines_is_empty() -> None:
    assert judge(" \n") == Verdict("empty")


def test_prose_is_kept() -> None:
    assert judge(DECLARATION) == KEEP


def test_texts_in_which_no_line_ends_a_sentence_can_be_kept() -> None:
    verse = "\n".join(f"Line {number} of a poem without full stops, which is long enough" for number in range(9))
    assert judge(verse).reason == "line_punct_ratio"
    assert judge(verse, line_punct_exclude_zero=True) == KEEP


def test_terminal_punctuation_is_a_parameter() -> None:
    assert judge("हम इन सत्यों को स्वयंसिद्ध मानते हैं, कि सभी मनुष्य समान हैं।") == KEEP
    assert judge(DECLARATION, stop_chars=";").reason == "line_punct_ratio"
