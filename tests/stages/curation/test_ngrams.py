from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.curation.english import English
from stages.curation.ngrams import NGrams
from stages.curation.words import Splitter

SPLITTER = Splitter(English())

few_words = st.lists(st.sampled_from(["a", "aa", "b", "ab", "0", "00", ","]), max_size=40)


def top(words: list[str], n: int) -> int:
    """As datatrove's `find_top_duplicate` says it."""
    n_grams = [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]
    n_gram, count = Counter(n_grams).most_common(1)[0] if n_grams else ("", 0)
    return len(n_gram) * count


def repeated(words: list[str], n: int) -> int:
    """As datatrove's `find_all_duplicate` says it."""
    seen, characters, start = set(), 0, 0
    while start < len(words) - n + 1:
        n_gram = "".join(words[start : start + n])
        if n_gram in seen:
            characters += len(n_gram)
            start += n
        else:
            seen.add(n_gram)
            start += 1
    return characters


@given(st.lists(few_words, max_size=6), st.integers(1, 6))
def test_characters_are_those_of_the_definition(several: list[list[str]], n: int) -> None:
    n_grams, every = NGrams(SPLITTER.words_of_chunks(several)), np.ones(len(several), np.bool_)
    least = np.zeros(len(several), np.int64)
    assert n_grams.top_characters(n, every, least).tolist() == [top(each, n) for each in several]
    assert n_grams.repeated_characters(n, every, least).tolist() == [repeated(each, n) for each in several]


@given(st.lists(few_words, min_size=1, max_size=6), st.integers(1, 6), st.data())
def test_texts_that_are_not_asked_for_have_nothing(several: list[list[str]], n: int, data: st.DataObject) -> None:
    asked = np.array(data.draw(st.lists(st.booleans(), min_size=len(several), max_size=len(several))))
    n_grams, least = NGrams(SPLITTER.words_of_chunks(several)), np.zeros(len(several), np.int64)
    counted = [n_grams.top_characters(n, asked, least), n_grams.repeated_characters(n, asked, least)]
    expected = [np.array([count(each, n) for each in several]) * asked for count in (top, repeated)]
    assert [counts.tolist() for counts in counted] == [counts.tolist() for counts in expected]


@given(st.lists(few_words, min_size=1, max_size=6), st.integers(1, 6), st.data())
def test_what_is_above_the_least_is_exact_and_the_rest_not_higher(
    several: list[list[str]], n: int, data: st.DataObject
) -> None:
    least = np.array(data.draw(st.lists(st.integers(0, 40), min_size=len(several), max_size=len(several))))
    n_grams, every = NGrams(SPLITTER.words_of_chunks(several)), np.ones(len(several), np.bool_)
    counted = [n_grams.top_characters(n, every, least), n_grams.repeated_characters(n, every, least)]
    for counts, count in zip(counted, (top, repeated), strict=True):
        for found, floor, words in zip(counts.tolist(), least.tolist(), several, strict=True):
            exact = count(words, n)
            assert found == exact if exact > floor else found <= exact
