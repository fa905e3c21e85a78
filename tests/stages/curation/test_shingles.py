import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.curation import shingles as module
from stages.curation.shingles import count_alphanumeric, shingles, word_hashes
from tests.shared import shared

TEXT = st.text(alphabet=st.sampled_from("abAB1_ .,\n'éßΣ\u0301中日ก\U00020000"), max_size=60)


def words(text: str) -> list[str]:
    """Return the words by Python's `re`, which the hashes stand for."""
    alone = "".join(f"{chr(first)}-{chr(last)}" for first, last in module._UNSPACED)
    return re.findall(rf"(?=[{alone}])\w|(?:(?![{alone}])\w)+", text.lower())


@given(TEXT)
def test_equal_words_have_equal_hashes_and_others_do_not(text: str) -> None:
    expected, hashes = words(text), word_hashes(text).tolist()
    assert len(hashes) == len(expected)
    assert len(set(hashes)) == len(set(expected)) == len(set(zip(hashes, expected, strict=True)))


@given(TEXT, st.integers(1, 5))
def test_a_shingle_is_a_run_of_words(text: str, ngram: int) -> None:
    found = words(text)
    runs = [tuple(found[at : at + ngram]) for at in range(max(len(found) - ngram + 1, bool(found)))]
    hashes = shingles(text, ngram).tolist()
    assert len(hashes) == len(runs)
    assert len(set(hashes)) == len(set(runs)) == len(set(zip(hashes, runs, strict=True)))


@given(TEXT)
def test_case_punctuation_and_white_space_do_not_count(text: str) -> None:
    plain = " ".join(words(text))
    assert shingles(text, 3).tolist() == shingles(plain, 3).tolist()


@pytest.mark.parametrize("window", [10, 64, 1000])
def test_the_window_does_not_count_where_words_are_shorter(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Four score and seven years ago, our fathers\n" * 40
    whole = word_hashes(text).tolist()
    monkeypatch.setattr(module, "WINDOW", window)
    monkeypatch.setattr(module, "_WINDOWS", re.compile(rf"(?s:.{{1,{window}}}(?!\w)|.{{{window}}})"))
    assert word_hashes(text).tolist() == whole


def test_a_word_without_end_is_hashed_piece_by_piece() -> None:
    assert word_hashes("x" * (2 * module.WINDOW + 1)).size == 3


def test_alphanumeric_is_what_python_says_of_every_code_point() -> None:
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    assert count_alphanumeric("".join(characters)) == sum(map(str.isalnum, characters))


def pairs() -> Iterator[dict[str, object]]:
    with (shared("curation") / "neardup" / "peps_pairs.jsonl").open() as file:
        yield from map(json.loads, file)


def test_the_jaccard_similarity_of_real_pairs_is_the_known_one() -> None:
    for pair in pairs():
        one, other = (set(shingles(str(pair[side]), 5).tolist()) for side in "ab")
        assert len(one & other) / len(one | other) == pytest.approx(pair["jaccard_w5"], abs=5e-5)
