import spacy
from hypothesis import example, given

from stages.curation.sentences import count_sentences
from tests.stages.curation.documents import texts

SPACY = spacy.blank("en")
SPACY.add_pipe("sentencizer")


@given(texts)
@example("One.  . Two.")
@example('He said: "Stop!" (Twice.) And went. ')
def test_sentences_are_those_of_spacys_sentencizer(text: str) -> None:
    lines = [text, "One. Two! Three?", *text.splitlines()]
    assert count_sentences(lines) == [max(len(list(SPACY(line).sents)), 1) for line in lines]


def test_whitespace_that_is_a_word_begins_a_sentence() -> None:
    assert count_sentences(["One. . Two.", "One.  . Two."]) == [2, 3]
