"""The funnel of documents whose chains, edits and drops are known: nothing is lost between two steps."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus.documents import Document
from stages.curation import trail
from stages.curation.chain import BuiltChain, Event
from stages.curation.funnel import funnel, merged, plotted
from stages.curation.step import KEEP, Verdict, each_text
from tests.stages.curation.world import document

STEPS = {"web": ["gate", "trim", "short", "duplicates"], "books": ["gate", "short", "shout", "duplicates"]}


def trim(text: str) -> Verdict:
    return Verdict(text=text.strip())


def short(text: str) -> Verdict:
    return Verdict("too_short", {"characters": len(text)}) if len(text) < 4 else KEEP


def shout(text: str) -> Verdict:
    return Verdict(text=f"{text}!", tags=("language:en",))


CHAINS = {
    "web": BuiltChain([("trim", each_text(trim)), ("short", each_text(short))]),
    "books": BuiltChain([("short", each_text(short)), ("shout", each_text(shout))]),
}


def entries(source: str, texts: list[str]) -> list[dict[str, Any]]:
    documents: list[Document] = [document(text, str(n), source, source) for n, text in enumerate(texts)]
    return [trail.row(each, outcome) for each, outcome in zip(documents, CHAINS[source](documents), strict=True)]


@pytest.fixture
def stored(tmp_path: Path) -> list[Path]:
    """Two files, with a document that the license gate refused and a duplicate."""
    facts = {"source": "web", "origin": "9", "license": "MPL-2.0", "reason": "license_not_allowed", "bytes": 100}
    web = [trail.refused({**facts, "sha256": "0" * 64}, "web"), *entries("web", ["  a  ", " abcd", "abcd", "efgh"])]
    trail.drop(web[3], Event("duplicates", "exact_duplicate", {}, False, ()), "abcd")
    paths = []
    for source, rows in (("web", web), ("books", entries("books", ["ab", "déjà"]))):
        paths.append(tmp_path / source)
        with trail.TrailWriter(paths[-1]) as writer:
            for row in rows:
                writer.add(row)
    return paths


def counts(rows: list[dict[str, Any]]) -> dict[str, list[tuple[int, int]]]:
    names = ("entered", "edited", "dropped", "left")
    return {row["step"]: [(row[name]["documents"], row[name]["bytes"]) for name in names] for row in rows}


def test_each_step_says_what_entered_was_edited_was_dropped_and_left(stored: list[Path]) -> None:
    by_source = funnel(stored, STEPS)["by"]["source"]
    assert counts(by_source["web"]) == {
        "gate": [(5, 118), (0, 0), (1, 100), (4, 18)],
        "trim": [(4, 18), (2, -5), (0, 0), (4, 13)],
        "short": [(4, 13), (0, 0), (1, 1), (3, 12)],
        "duplicates": [(3, 12), (0, 0), (1, 4), (2, 8)],
    }
    assert counts(by_source["books"]) == {
        "gate": [(2, 8), (0, 0), (0, 0), (2, 8)],
        "short": [(2, 8), (0, 0), (1, 2), (1, 6)],
        "shout": [(1, 6), (1, 1), (0, 0), (1, 7)],
        "duplicates": [(1, 7), (0, 0), (0, 0), (1, 7)],
    }


def test_every_group_adds_up_to_the_whole(stored: list[Path]) -> None:
    found = funnel(stored, STEPS)
    assert [row["step"] for row in found["total"]] == ["gate", "trim", "short", "shout", "duplicates"]
    assert found["total"][-1]["left"] == {"documents": 3, "bytes": 15}
    for group in found["by"].values():
        assert sum(rows[-1]["left"]["bytes"] for rows in group.values()) == 15
        assert sum(rows[0]["entered"]["bytes"] for rows in group.values()) == 126
    assert found["by"]["language"].keys() == {"en", "unknown"}
    assert found["by"]["license"].keys() == {"MIT", "MPL-2.0"}
    assert [row["documents"] for row in plotted(found["total"])] == [7, 6, 6, 4, 4, 3]


@given(st.lists(st.lists(st.sampled_from("abcdef"), unique=True), max_size=4))
def test_merged_orders_have_every_step_once_and_keep_the_first_order(orders: list[list[str]]) -> None:
    found = merged(orders)
    assert sorted(found) == sorted({step for order in orders for step in order})
    if orders:
        assert [step for step in found if step in orders[0]] == orders[0]
