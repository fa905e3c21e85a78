import json
import re
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.curation.language import Language
from stages.curation.step import Verdict
from stages.errors import UserError
from tests.shared import shared
from tests.stages.curation.documents import DECLARATION, document

# Tatoeba's code, the model's.
LARGE = {
    "eng": "en", "deu": "de", "fra": "fr", "spa": "es", "rus": "ru", "jpn": "ja", "por": "pt", "ita": "it",
    "nld": "nl", "pol": "pl", "kor": "ko", "tur": "tr", "ukr": "uk", "hun": "hu", "fin": "fi", "ell": "el",
}  # fmt: skip
STEP = Language(step="language").build()


def judge(text: str) -> Verdict:
    return STEP([document(text)])[0]


def test_text_is_tagged_with_its_language_and_score() -> None:
    verdict = judge(DECLARATION)
    assert verdict.tags == ("language:en",)
    assert verdict.reason is None
    assert 0.9 < verdict.numbers["language_score"] <= 1
    assert judge("Der Mensch ist frei geboren,\nund überall liegt er in Ketten.").tags == ("language:de",)


def test_other_languages_are_dropped_and_still_named() -> None:
    step = Language(step="language", languages=("de", "fr")).build()
    english, french = step([document(DECLARATION), document("L'homme est né libre, et partout il est dans les fers.")])
    assert (english.reason, english.tags) == ("other_language", ("language:en",))
    assert (french.reason, french.tags) == (None, ("language:fr",))


@pytest.mark.parametrize("text", ["", " \n\t", "12 + 30 = 42", "\x00\x01", "\ud800"])
def test_text_without_letters_has_no_language(text: str) -> None:
    assert judge(text) == Verdict("language_score", {"language_score": 0}, tags=("language:und",))


def test_long_text_is_judged_by_pieces_of_all_of_it() -> None:
    menu, body = "Accueil · Nous contacter · À propos de nous · Se connecter\n" * 10, f"{DECLARATION}\n" * 200
    assert judge(menu).tags == ("language:fr",)
    assert judge(menu + body).tags == ("language:en",)


@given(st.text(max_size=500))
def test_any_text_has_a_verdict_and_line_ends_do_not_matter(text: str) -> None:
    assert judge(text) == judge(re.sub(r"\s+", "\n", text))


def test_language_that_the_model_does_not_know_is_refused() -> None:
    with pytest.raises(UserError, match=r"\['xx'\] are not known .* en "):
        Language(step="language", languages=("en", "xx")).build()


def test_accuracy_over_large_languages() -> None:
    sentences = defaultdict(list)
    for line in (shared("curation") / "langid" / "tatoeba.jsonl").read_text().splitlines():
        row = json.loads(line)
        sentences[row["lang"]].append(row["text"])
    passages = [
        (code, document(" ".join(sentences[name][start : start + 5])))
        for name, code in LARGE.items()
        for start in range(0, len(sentences[name]) - 4, 5)
    ]
    verdicts = STEP([passage for _, passage in passages])
    right = [verdict.tags == (f"language:{code}",) for (code, _), verdict in zip(passages, verdicts, strict=True)]
    kept = [good for good, verdict in zip(right, verdicts, strict=True) if verdict.reason is None]
    assert len(passages) >= 256
    assert sum(right) >= 0.98 * len(right)
    assert sum(kept) >= 0.99 * len(kept) and len(kept) >= 0.9 * len(passages)
