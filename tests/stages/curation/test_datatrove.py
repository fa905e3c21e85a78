"""Filters whose semantics are datatrove 0.10.1's, held to its verdicts and edits."""

import json
from collections.abc import Sequence
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus.documents import Document
from stages.curation.c4 import C4
from stages.curation.fineweb import FineWeb
from stages.curation.gopher_quality import GopherQuality
from stages.curation.gopher_repetition import GopherRepetition
from tests.shared import shared
from tests.stages.curation.documents import document, texts

REPETITION = GopherRepetition(step="gopher_repetition")
FILTERS: dict[str, GopherRepetition | GopherQuality | C4 | FineWeb] = {
    "GopherRepetitionFilter": REPETITION,
    "GopherQualityFilter": GopherQuality(step="gopher_quality"),
    "C4QualityFilter": C4(step="c4"),
    "FineWebQualityFilter": FineWeb(step="fineweb"),
}
# Documents of which datatrove says otherwise, with the reason: none is known.
DISAGREEMENTS: dict[str, set[str]] = {name: set() for name in FILTERS}


@pytest.fixture(scope="module")
def known() -> tuple[list[Document], list[dict[str, str]]]:
    """Return the documents with known verdicts, and the verdicts by filter."""
    lines = (shared("curation") / "filters" / "datatrove_0.10.1_verdicts.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    folder = shared("corpus")
    whole = [(folder / row["path"]).read_text(errors="replace")[: row["chars"]] for row in rows]
    documents = [document(text, row["path"]) for text, row in zip(whole, rows, strict=True)]
    return documents, [row["verdicts"] for row in rows]


@pytest.mark.parametrize("name", FILTERS)
def test_verdicts_agree_with_datatroves(name: str, known: tuple[list[Document], list[dict[str, str]]]) -> None:
    documents, verdicts = known
    found = [verdict.reason or "keep" for verdict in FILTERS[name].build()(documents)]
    disagreements = {
        each.id for each, ours, theirs in zip(documents, found, verdicts, strict=True) if ours != theirs[name]
    }
    assert len(documents) == 239
    assert disagreements == DISAGREEMENTS[name]


def judge_by_datatrove(name: str, text: str, **thresholds: object) -> tuple[str | None, str]:
    from datatrove.data import Document as Datatrove
    from datatrove.pipeline import filters

    theirs = Datatrove(text=text, id="")
    verdict = getattr(filters, name)(**thresholds).filter(theirs)
    return (None if verdict is True else verdict[1]), theirs.text


def judge(
    step: GopherRepetition | GopherQuality | C4 | FineWeb, several: Sequence[str]
) -> list[tuple[str | None, str]]:
    verdicts = step.build()([document(text) for text in several])
    return [
        (verdict.reason, text if verdict.text is None else verdict.text)
        for text, verdict in zip(several, verdicts, strict=True)
    ]


needs_datatrove = pytest.mark.skipif(find_spec("datatrove") is None, reason="datatrove is not installed")


@needs_datatrove
@given(st.lists(texts, max_size=4))
def test_repetition_is_datatroves(several: list[str]) -> None:
    expected = [judge_by_datatrove("GopherRepetitionFilter", text) for text in several]
    assert judge(REPETITION, several) == expected


@needs_datatrove
@given(st.lists(texts.map(lambda text: f"{text} the and"), max_size=4))
def test_quality_is_datatroves(several: list[str]) -> None:
    expected = [judge_by_datatrove("GopherQualityFilter", text, min_doc_words=4) for text in several]
    assert judge(GopherQuality(step="gopher_quality", min_doc_words=4), several) == expected


@needs_datatrove
@given(st.lists(texts, max_size=4))
def test_c4_is_datatroves_with_its_edits(several: list[str]) -> None:
    lines = [text.replace("\n", ' ends." \n').replace("{", "") for text in several]
    expected = [judge_by_datatrove("C4QualityFilter", text, min_num_sentences=2) for text in lines]
    assert judge(C4(step="c4", min_num_sentences=2), lines) == expected


@needs_datatrove
@given(st.lists(texts.map(lambda text: f"{text}a"), max_size=4))
def test_fineweb_is_datatroves(several: list[str]) -> None:
    expected = [judge_by_datatrove("FineWebQualityFilter", text, char_duplicates_ratio=0.2) for text in several]
    assert judge(FineWeb(step="fineweb", char_duplicates_ratio=0.2), several) == expected
