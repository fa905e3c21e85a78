from hypothesis import given

from stages.curation.c4 import C4
from stages.curation.step import Verdict
from tests.stages.curation.documents import DECLARATION, document, texts

PAGE = """Home
It rains.[1] It pours. The old man is snoring.
Please enable JavaScript to go on.
 He went to bed. He bumped his head.
Too short.
Read our privacy policy first.
And so it goes..."""


def judge(text: str, **thresholds: object) -> Verdict:
    return C4.model_validate({"step": "c4", **thresholds}).build()([document(text)])[0]


def test_lines_that_are_no_sentences_go_and_are_counted() -> None:
    assert judge(PAGE) == Verdict(
        numbers={"lines_javascript": 1, "lines_no_terminal_punc": 2, "lines_policy": 1, "lines_too_few_words": 1},
        text="It rains. It pours. The old man is snoring.\nHe went to bed. He bumped his head.",
    )


def test_whole_texts_go_for_what_stands_in_a_line_that_would_stay() -> None:
    assert judge("Home\nLorem ipsum dolor sit amet.") == Verdict("lorem_ipsum", {"line": 2})
    assert judge("int main() { return 0; }.") == Verdict("curly_bracket", {"line": 1})
    assert judge("{ Home }").reason == "too_few_sentences"


def test_sentences_are_counted_after_lines_have_gone() -> None:
    assert judge("One two three. Four.\nFive") == Verdict(
        "too_few_sentences", {"sentences": 2, "lines_no_terminal_punc": 1}
    )
    assert judge(DECLARATION, min_num_sentences=2).reason is None
    assert judge(DECLARATION, min_num_sentences=3).reason == "too_few_sentences"


def test_line_with_a_very_long_word_goes() -> None:
    verdict = judge(f"{'a' * 1001} is a word.\nThis is a line.", min_num_sentences=None)
    assert verdict == Verdict(numbers={"lines_too_long_word": 1}, text="This is a line.")


@given(texts)
def test_edits_are_made_once(text: str) -> None:
    once = judge(f"{text}.", min_num_sentences=None, filter_curly_bracket=False, remove_citations=False).text or ""
    assert judge(once, min_num_sentences=None, filter_curly_bracket=False, remove_citations=False).text == once
