import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.curation import words as module
from stages.curation.english import English
from stages.curation.words import Splitter, Words
from tests.stages.curation.documents import texts

ENGLISH = English()


def spelled(words: Words) -> list[list[str]]:
    spelling = list(words.vocabulary.words)
    return [
        [spelling[number] for number in words.ids[start:end]]
        for start, end in zip(words.bounds[:-1], words.bounds[1:], strict=True)
    ]


@given(st.lists(texts, max_size=5))
def test_words_are_those_of_the_chunks_in_order(several: list[str]) -> None:
    splitter = Splitter(ENGLISH)
    expected = [[word for chunk in text.split() for word in ENGLISH(chunk)] for text in several]
    assert spelled(splitter.words(several)) == expected
    assert spelled(splitter.words(several[::-1])) == expected[::-1]
    assert spelled(splitter.words_of_chunks([text.split() for text in several])) == expected


def test_what_is_known_of_words() -> None:
    words = Splitter(ENGLISH).words(["Is it 5 o'clock? ..."])
    known = words.vocabulary
    assert list(known.words) == ["Is", "it", "5", "o'clock", "?", "..."]
    assert known.lengths.tolist() == [2, 2, 1, 7, 1, 3]
    assert known.symbol.tolist() == [False] * 4 + [True] * 2
    assert known.alphabetic.tolist() == [True, True, False, True, False, False]
    assert known.kinds.tolist() == [0, 0, 0, 0, module.ENDS_SENTENCE, module.PUNCTUATION]
    assert words.sums(known.lengths).tolist() == [16]


def test_hash_of_two_words_follows_from_theirs() -> None:
    known = Splitter(ENGLISH).words(["note book notebook"]).vocabulary
    hashes, shifts = known.hashes, known.shifts
    assert hashes[:1] + shifts[:1] * hashes[1:2] == hashes[2:]
    assert shifts[:1] * shifts[1:2] == shifts[2:]


def test_words_stay_the_same_when_memory_has_no_room_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_CHUNKS", 2)
    monkeypatch.setattr(module, "_MAX_WORDS", 3)
    splitter = Splitter(ENGLISH)
    for text in ("Call me Ishmael.", "Some years ago, never mind how long", "Call me Ishmael."):
        assert spelled(splitter.words([text])) == [[word for chunk in text.split() for word in ENGLISH(chunk)]]
    assert len(splitter.words(["Ishmael."]).vocabulary.words) == 2
