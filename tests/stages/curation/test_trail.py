import json
from pathlib import Path
from typing import Any

import pytest

from stages.curation import trail
from stages.curation.chain import BuiltChain, Event, Outcome
from stages.curation.step import KEEP, Verdict, each_text
from stages.errors import UserError
from tests.stages.curation.world import document

TEXTS = ["too short", "a text with a tail", "une phrase", "another text"]


def tails(text: str) -> Verdict:
    return Verdict(text=text.removesuffix(" with a tail"), numbers={"tails": 1}) if text.endswith("tail") else KEEP


def languages(text: str) -> Verdict:
    return Verdict(tags=("language:fr",)) if text.startswith("une") else KEEP


def short(text: str) -> Verdict:
    return Verdict("too_short", {"words": len(text.split())}) if "short" in text else KEEP


STEPS = BuiltChain([(step.__name__, each_text(step)) for step in (tails, languages, short)])


@pytest.fixture
def stored(tmp_path: Path) -> list[Path]:
    """Two files: what a chain says of the texts, of which the second is a near-duplicate of the last as well."""
    documents = [document(text, str(number)) for number, text in enumerate(TEXTS)]
    entries = [trail.row(each, outcome) for each, outcome in zip(documents, STEPS(documents), strict=True)]
    entries[1]["cluster"] = entries[3]["cluster"] = "c0"
    trail.drop(entries[1], Event("duplicates", "near_duplicate", {"agreement": 0.75}, False, ()), "a text")
    for entry in entries[2:]:
        entry["split"] = "train"
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for path, part in zip(paths, (entries[:2], entries[2:]), strict=True):
        with trail.TrailWriter(path) as writer:
            for entry in part:
                writer.add(entry)
    return paths


def identity(number: int) -> str:
    return document(TEXTS[number], str(number)).id


def test_what_happened_to_a_document_is_told_in_order(stored: list[Path]) -> None:
    told = trail.explain(stored, identity(1))
    assert told["events"] == [
        {"step": "tails", "reason": None, "numbers": {"tails": 1.0}, "edited": True, "tags": [], "bytes": -12},
        {
            "step": "duplicates",
            "reason": "near_duplicate",
            "numbers": {"agreement": 0.75},
            "edited": False,
            "tags": [],
            "bytes": 0,
        },
    ]
    assert (told["outcome"], told["step"], told["reason"]) == ("dropped", "duplicates", "near_duplicate")
    assert (told["edits"], told["bytes"], told["edit_bytes"], told["kept_bytes"]) == (["tails"], 18, [-12], 6)
    (other,) = told["duplicates"]
    assert (other["id"], other["outcome"], other["split"]) == (identity(3), "kept", "train")


def test_an_id_that_no_document_has_is_refused(stored: list[Path]) -> None:
    with pytest.raises(UserError, match=f"No document that curation read has the id '{'0' * 32}'.*dropped.jsonl"):
        trail.explain(stored, "0" * 32)
    with pytest.raises(UserError, match=f"'{identity(1)[:8]}' is no document's id, which has 32 hex digits"):
        trail.explain(stored, identity(1)[:8])


def test_the_fates_account_for_every_document_and_byte(stored: list[Path]) -> None:
    rows = trail.fates(stored)
    assert sum(row["documents"] for row in rows) == len(TEXTS)
    assert sum(row["bytes"] for row in rows) == sum(map(len, TEXTS))
    found: dict[tuple[Any, ...], int] = {
        (row["language"], row["split"], row["step"], row["reason"]): row["documents"] for row in rows
    }
    assert found == {
        (None, None, "short", "too_short"): 1,
        (None, None, "duplicates", "near_duplicate"): 1,
        ("fr", "train", None, None): 1,
        (None, "train", None, None): 1,
    }


def test_words_that_are_no_license_are_told_but_no_group(tmp_path: Path) -> None:
    facts = {"source": "s", "origin": "9", "sha256": "0" * 64, "bytes": 7}
    with trail.TrailWriter(tmp_path / "0") as writer:
        for terms, reason in (("free for all", "license_unrecognized"), ("MPL-2.0", "license_not_allowed")):
            writer.add(trail.refused({**facts, "license": terms, "reason": reason}, "prose"))
    rows = list(trail.rows(tmp_path / "0"))
    assert [row["license"] for row in rows] == [None, "MPL-2.0"]
    assert [json.loads(row["events"])[0]["tags"] for row in rows] == [["free for all"], []]


def test_lengths_are_counted_by_powers_of_two(stored: list[Path]) -> None:
    assert trail.lengths(stored) == [
        {"outcome": "dropped", "bytes": 8, "documents": 1},
        {"outcome": "dropped", "bytes": 16, "documents": 1},
        {"outcome": "kept", "bytes": 8, "documents": 2},
    ]


def test_the_gallery_has_the_smallest_ids_of_each_reason_whatever_the_order(tmp_path: Path) -> None:
    documents = [document(f"short {number}", str(number)) for number in range(40)]
    galleries = []
    for name, order in (("one", documents), ("other", documents[::-1])):
        with trail.TrailWriter(tmp_path / name) as writer:
            for each, outcome in zip(order, STEPS(order), strict=True):
                writer.add(trail.row(each, outcome))
        galleries.append(list(trail.gallery([tmp_path / name], 5)))
    assert galleries[0] == galleries[1]
    assert [entry["id"] for entry in galleries[0]] == sorted(each.id for each in documents)[:5]
    assert galleries[0][0]["excerpt"].startswith("short ")
    assert galleries[0][0]["events"][0]["numbers"] == {"words": 2.0}


def test_no_excerpt_shows_what_was_masked_or_asked_to_be_left_out() -> None:
    read, masked = document("Write to jane@mail.org", "1"), document("Write to [EMAIL]", "1")
    for step, excerpt in (("length", "Write to [EMAIL]"), ("pii", ""), ("opt_out", "")):
        outcome = Outcome(masked, [Event(step, "some_reason", {}, False, ())])
        assert trail.row(read, outcome)["excerpt"] == excerpt


def test_rows_come_back_as_they_were_and_equal_rows_are_equal_bytes(stored: list[Path], tmp_path: Path) -> None:
    with trail.TrailWriter(tmp_path / "copy") as writer:
        for entry in trail.rows(stored[0]):
            writer.add(entry)
    assert (tmp_path / "copy").read_bytes() == stored[0].read_bytes()
    assert [json.loads(entry["events"])[0]["step"] for entry in trail.rows(stored[0])] == ["short", "tails"]
