from collections import Counter

import pytest

from evals.documents import Document
from evals.questions import CHOICES, ContinuationSettings, Question, ask
from stages.errors import UserError
from tests.evals import world

SETTINGS = ContinuationSettings(questions=120, lines=2, choice_bytes=100, context_bytes=200)


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {document.id: document for document in world.documents("code", world.texts("asyncio"))}


@pytest.fixture(scope="module")
def questions(documents: dict[str, Document]) -> list[Question]:
    return ask(list(documents.values()), SETTINGS, 0)


def test_there_are_as_many_questions_as_asked_and_none_twice(questions: list[Question]) -> None:
    assert len({question.id for question in questions}) == len(questions) == SETTINGS.questions


def test_the_gold_choice_alone_goes_on_with_the_document(
    documents: dict[str, Document], questions: list[Question]
) -> None:
    for question in questions:
        text = documents[question.document].text
        true = [f"{question.context}\n{choice}" in text for choice in question.choices]
        assert [index for index, is_true in enumerate(true) if is_true] == [question.gold]


def test_choices_differ_and_distractors_are_of_three_other_documents(
    documents: dict[str, Document], questions: list[Question]
) -> None:
    source = {question.choices[question.gold]: question.document for question in questions}
    for question in questions:
        assert len(set(question.choices)) == CHOICES
        assert len({source[choice] for choice in question.choices}) == CHOICES


def test_every_passage_is_gold_once(questions: list[Question]) -> None:
    golds = [question.choices[question.gold] for question in questions]
    assert len(set(golds)) == len(golds)


def test_sizes_are_within_their_bounds(questions: list[Question]) -> None:
    for question in questions:
        assert 0 < len(question.context.encode()) <= SETTINGS.context_bytes
        for choice in question.choices:
            assert SETTINGS.choice_bytes / 2 <= len(choice.encode()) <= SETTINGS.choice_bytes
            assert len(choice.split("\n")) == SETTINGS.lines
            assert all(line.strip() for line in choice.split("\n"))


def test_length_does_not_give_the_gold_choice_away(questions: list[Question]) -> None:
    longest = [question.choices.index(max(question.choices, key=len)) for question in questions]
    right = sum(guess == question.gold for guess, question in zip(longest, questions, strict=True))
    assert right / len(questions) < 0.4


def test_gold_stands_in_every_place_about_equally_often(questions: list[Question]) -> None:
    places = Counter(question.gold for question in questions)
    assert all(0.15 < places[place] / len(questions) < 0.35 for place in range(CHOICES))


def test_documents_take_turns(documents: dict[str, Document], questions: list[Question]) -> None:
    counts = Counter(question.document for question in questions)
    assert max(counts.values()) <= 2 * SETTINGS.questions / len(documents) + 2


def test_content_and_seed_decide(documents: dict[str, Document], questions: list[Question]) -> None:
    assert ask(list(documents.values()), SETTINGS, 0) == questions
    assert ask(list(documents.values()), SETTINGS, 1) != questions


def test_too_few_passages_name_parameter_value_and_remedy(documents: dict[str, Document]) -> None:
    settings = SETTINGS.model_copy(update={"questions": 5000})
    with pytest.raises(UserError, match=r"evaluate.continuation.questions = 5000: .* Ask fewer"):
        ask(list(documents.values()), settings, 0)


def test_distractors_need_three_other_documents(documents: dict[str, Document]) -> None:
    with pytest.raises(UserError, match=r"from 3 documents \(at least 4 are needed\)"):
        ask(list(documents.values())[:3], SETTINGS.model_copy(update={"choice_bytes": 160}), 0)
