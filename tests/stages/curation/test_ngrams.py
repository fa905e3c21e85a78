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
    words = SPLITTER.words_of_chunks(several)
    n_grams, all_texts = NGrams(words), np.ones(len(several), np.bool_)
    assert n_grams.top_characters(n, all_texts).tolist() == [top(each, n) for each in several]
    assert n_grams.repeated_characters(n, all_texts).tolist() == [repeated(each, n) for each in several]


@given(st.lists(few_words, min_size=1, max_size=6), st.integers(1, 6), st.data())
def test_texts_that_are_not_asked_for_have_nothing(several: list[list[str]], n: int, data: st.DataObject) -> None:
    asked = np.array(data.draw(st.lists(st.booleans(), min_size=len(several), max_size=len(several))))
    n_grams = NGrams(SPLITTER.words_of_chunks(several))
    counted = [n_grams.top_characters(n, asked), n_grams.repeated_characters(n, asked)]
    expected = [np.array([count(each, n) for each in several]) * asked for count in (top, repeated)]
    assert [counts.tolist() for counts in counted] == [counts.tolist() for counts in expected]
