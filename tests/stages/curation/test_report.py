"""The report counts what rows of the trail say, each document once."""

import hashlib
from pathlib import Path

import pytest

from stages.curation import trail
from stages.curation.chain import BuiltChain, Chain
from stages.curation.report import reasons, report, totals
from stages.curation.step import Verdict, each_text
from tests.stages.curation.world import document

CHAINS = {"s": Chain(steps=())}
GROUPS = (0, 0, 1, 2, 2, 2, 3, 3, 3)
"""The cluster of each document; cluster 1 stands for none."""


@pytest.fixture
def stored(tmp_path: Path) -> list[Path]:
    """Two files of kept documents with tags, two steps of which give the same, and clusters across both."""
    shouts = each_text(lambda _: Verdict(tags=("loud", "contaminated|b|r|p")))
    built = BuiltChain([("first", shouts), ("second", shouts)])
    documents = [document("a" * (number + 1), str(number)) for number in range(len(GROUPS))]
    paths = [tmp_path / "0", tmp_path / "1"]
    for path, start, end in ((paths[0], 0, 4), (paths[1], 4, len(GROUPS))):
        with trail.TrailWriter(path) as writer:
            for number, outcome in zip(range(start, end), built(documents[start:end]), strict=True):
                cluster = hashlib.sha256(bytes([GROUPS[number]])).hexdigest() if GROUPS[number] != 1 else None
                writer.add({**trail.row(documents[number], outcome), "split": "train", "cluster": cluster})
    return paths


def test_clusters_are_counted_across_files_by_their_size(stored: list[Path]) -> None:
    assert report(stored, CHAINS)["clusters"] == [
        {"documents": 2, "clusters": 1},
        {"documents": 3, "clusters": 2},
    ]


def test_a_tag_counts_once_a_document_and_findings_are_no_tags(stored: list[Path]) -> None:
    assert report(stored, CHAINS)["tags"] == {"loud": {"documents": 9, "bytes": 45}}


def test_totals_and_reasons_are_those_of_the_report(stored: list[Path]) -> None:
    found = report(stored, CHAINS)
    whole = {"documents": 9, "bytes": 45}
    assert totals(found) == {"kept": whole, "dropped": {"documents": 0, "bytes": 0}, "splits": {"train": whole}}
    assert found["kept"]["train"]["by"]["license"] == {"MIT": whole}
    counts = {"short": {"documents": 1, "bytes": 2}, "long": {"documents": 3, "bytes": 9}}
    assert reasons({"dropped": counts}) == [{"reason": "long", "documents": 3}, {"reason": "short", "documents": 1}]


def test_a_corpus_of_nothing_has_a_report(tmp_path: Path) -> None:
    with trail.TrailWriter(tmp_path / "0"):
        pass
    found = report([tmp_path / "0"], CHAINS)
    assert found["clusters"] == [] and found["tags"] == {} and found["kept"] == {}
    assert found["funnel"]["total"] == []
