import pytest
import spacy
from hypothesis import example, given
from hypothesis import strategies as st

from stages.curation.english import English
from tests.shared import shared
from tests.stages.curation.documents import texts

ENGLISH = English()
SPACY = spacy.blank("en").tokenizer


def by_spacy(chunks: list[str]) -> list[list[str]]:
    """Split chunks one by one: a line end between two keeps spaCy from joining their words."""
    words: list[list[str]] = [[]]
    for token in SPACY("\n".join(chunks)):
        words.append([]) if token.text == "\n" else words[-1].append(token.text)
    return words


@given(texts | st.text(st.characters(exclude_categories=["Cs"])))  # surrogates are an error in spaCy
@example("cheers:) :-( and/or don't C++ 10a.m. U.S. (e.g.) 5km. wait... '' US$5 $5 -5 a--b x.Y foo/bar \\\") @mail.org")
def test_chunks_are_split_as_by_spacy(text: str) -> None:
    chunks = text.split()
    assert not chunks or [ENGLISH(chunk) for chunk in chunks] == by_spacy(chunks)


@pytest.mark.parametrize("folder", ["encyclopedic", "scientific", "multilingual"])
def test_chunks_of_a_corpus_are_split_as_by_spacy(folder: str) -> None:
    files = sorted(path for path in (shared("corpus") / folder).rglob("*") if path.is_file())[::40]
    chunks = sorted({chunk for path in files for chunk in path.read_text(errors="replace").split()})[:12000:2]
    assert len(chunks) > 1000
    assert [ENGLISH(chunk) for chunk in chunks] == by_spacy(chunks)
