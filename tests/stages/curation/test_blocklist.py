import csv
import json
from pathlib import Path
from typing import Any

import pytest

from stages.curation.blocklist import Blocklist, WordList, counter
from stages.curation.chain import Chain
from stages.curation.step import KEEP, Verdict
from stages.errors import UserError
from stages.files import sha256_file
from tests.shared import shared
from tests.stages.curation.documents import document

PHRASES = "Darn\nbloody hell\n\ns&m\n雑魚\n"


@pytest.fixture
def words(tmp_path: Path) -> WordList:
    path = tmp_path / "en.txt"
    path.write_text(PHRASES, encoding="utf-8")
    return WordList(path=path, sha256=sha256_file(path))


def judge(words: WordList, text: str, **changes: Any) -> Verdict:
    settings = Blocklist(step="blocklist", lists={"en": words}, **{"min_count": 1, **changes})
    (verdict,) = settings.build()([document(text)])
    return verdict


@pytest.mark.parametrize("text", ["darn", "So, DARN!", "It is bloody hell.", "(S&M)", "この雑魚キャラ"])
def test_words_and_phrases_are_found_whatever_their_case_and_place(words: WordList, text: str) -> None:
    assert judge(words, text) == Verdict(numbers={"en": 1}, tags=("blocklist:en",))


@pytest.mark.parametrize("text", ["darned", "adarn", "darn_it", "bloody hello", "bloody, hell", "s&ms", "雑 魚"])
def test_parts_of_words_are_not(words: WordList, text: str) -> None:
    assert judge(words, text) == KEEP


def test_every_time_counts(words: WordList) -> None:
    text = "darn darn bloody hell"
    assert judge(words, text).numbers == {"en": 3}
    assert judge(words, text, min_count=4) == KEEP


def test_allowed_words_do_not_count(words: WordList) -> None:
    assert judge(words.model_copy(update={"allow": ("DARN",)}), "darn") == KEEP


def test_each_list_counts_what_it_has() -> None:
    assert counter({"en": ["hell"], "de": ["hell", "dunkel"]})("hell") == {"en": 1, "de": 1}
    assert counter({"en": []})("hell") == {}


def test_a_policy_may_drop_by_the_tag(words: WordList) -> None:
    step = {"step": "blocklist", "lists": {"en": {"path": str(words.path), "sha256": words.sha256}}, "min_count": 1}
    chain = Chain.model_validate_json(json.dumps({"steps": [step], "drop_tags": ["blocklist:en"]})).build()
    assert [outcome.reason for outcome in chain([document("darn"), document("well")])] == ["tag:blocklist:en", None]


def test_another_file_than_the_pinned_one_is_refused(words: WordList) -> None:
    words.path.write_text("other")
    with pytest.raises(UserError, match=r"en\.txt' has the digest"):
        judge(words, "darn")
    words.path.unlink()
    with pytest.raises(UserError, match=r"en\.txt' is missing"):
        judge(words, "darn")


def test_every_phrase_of_c4s_lists_is_found_in_a_sentence() -> None:
    for path in sorted((shared("curation") / "blocklist" / "ldnoobw").glob("*.txt")):
        phrases = WordList(path=path, sha256=sha256_file(path)).phrases()
        count = counter({path.stem: phrases})
        assert phrases and all(count(f"({phrase}).")[path.stem] for phrase in phrases)


def test_a_word_list_is_no_measure_of_toxicity() -> None:
    curation = shared("curation")
    path = curation / "blocklist" / "ldnoobw" / "en.txt"
    count = counter({"en": WordList(path=path, sha256=sha256_file(path)).phrases()})
    rows = [json.loads(line) for line in (curation / "toxicity" / "hatecheck.jsonl").read_text().splitlines()]
    tagged = {
        label: [bool(count(row["text"])) for row in rows if row["label"] == label]
        for label in ("hateful", "non-hateful")
    }
    assert {label: (sum(found), len(found)) for label, found in tagged.items()} == {
        "hateful": (138, 1902),
        "non-hateful": (159, 894),
    }
    with (curation / "toxicity" / "tsd_trial.csv").open(newline="", encoding="utf-8") as file:
        toxic = [bool(count(row["text"])) for row in csv.DictReader(file) if row["spans"] != "[]"]
    assert (sum(toxic), len(toxic)) == (65, 647)
