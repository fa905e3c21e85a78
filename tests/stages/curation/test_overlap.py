import re

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from stages.curation.benchmarks import Row
from stages.curation.overlap import Index
from stages.curation.shingles import word_hashes, word_spans

ANSWER = "We hold these truths to be self-evident, that all men are created equal"
CHINESE = "人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。"
_WORDS = st.lists(st.sampled_from(["a", "b", "naïve", "İstanbul", "ΣΑΣ", "人", "x_1"]), max_size=60)


def index(*texts: str, ngram: int = 13) -> Index:
    return Index((Row("quiz", f"test.jsonl:{number}", text) for number, text in enumerate(texts)), ngram)


def naive(text: str, row: str, ngram: int) -> bool:
    def runs(text: str) -> set[tuple[str, ...]]:
        words = re.findall(r"人|[^\W人]+", text.replace("İ", "i").lower())
        return {tuple(words[start : start + ngram]) for start in range(len(words) - ngram + 1)}

    return bool(runs(text) & runs(row))


def test_a_quotation_is_found_where_it_stands() -> None:
    text = f"İ. The Declaration says: “{ANSWER.upper()}”, and goes on."
    (passage,) = index("Other words.", f"Who wrote this? {ANSWER}.").passages(text)
    assert text[passage.start : passage.end] == ANSWER.upper()
    assert (passage.ngrams, passage.rows) == (2, (1,))


def test_line_breaks_case_and_punctuation_do_not_count() -> None:
    wrapped = ANSWER.replace(" ", "\n   ").replace("-", " ")
    assert index(ANSWER).passages(f"x {wrapped} y")


def test_scripts_without_spaces_count_by_characters() -> None:
    (passage,) = index(CHINESE).passages(f"abc{CHINESE[:14]}xyz")
    assert passage[:2] == (3, 17)


def test_passages_far_apart_are_apart_and_name_their_rows() -> None:
    other = " ".join(f"word{number}" for number in range(13))
    found = index(ANSWER, other, ANSWER).passages(f"{other} between {ANSWER}")
    assert [passage.rows for passage in found] == [(1,), (0, 2)]


def test_an_ngram_never_spans_two_rows() -> None:
    words = ANSWER.split()
    assert not index(" ".join(words[:7]), " ".join(words[7:])).passages(ANSWER)


def test_short_rows_are_counted() -> None:
    assert index("short", ANSWER, "").short == [0, 2]


def test_no_rows_find_nothing() -> None:
    assert index().passages(ANSWER) == []


@hypothesis.settings(deadline=None)
@given(st.lists(_WORDS.map(" ".join), min_size=1, max_size=4), _WORDS.map(" ".join))
def test_rows_are_found_as_by_comparing_lists_of_words(rows: list[str], text: str) -> None:
    found = {row for passage in index(*rows, ngram=5).passages(text) for row in passage.rows}
    assert found == {number for number, row in enumerate(rows) if naive(text, row, 5)}


@hypothesis.settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_each_word_has_a_span_that_hashes_to_it(text: str) -> None:
    spans = word_spans(text)
    words = [text.lower()[start:end] for start, end in spans.tolist()]
    assert [word_hashes(word).tolist() for word in words] == [[value] for value in word_hashes(text).tolist()]


def test_only_one_character_is_longer_in_lower_case() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert [character for character in characters if len(character.lower()) > 1] == ["\u0130"]
