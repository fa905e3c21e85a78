"""Real text of six domains, 45 MB with the traps of real sources, through the whole graph; tests/corpus.yaml says how.

One run serves all tests. Nothing in the text was planted: what is expected is known from corpus.SOURCES.tsv and
ngram13_overlaps.jsonl beside the packs, or counted here from the original files.
"""

import csv
import json
import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from stages.corpus.documents import Document, read
from stages.corpus.licenses import stated
from stages.curation import trail
from stages.files import read_json, read_jsonl
from stages.settings import read_yaml
from tests import corpus
from tests.shared import shared
from tests.test_pipeline import ONE_TIME, call, make_clone

pytestmark = pytest.mark.e2e

Row = dict[str, Any]


@dataclass(frozen=True)
class Made:
    """What one run of the graph made.

    Attributes:
        root: The clone.
        folders: Where in the corpus each source has its files.
        files: What is known of each original file, by its path in the corpus.
        manifest: The snapshot's, by source.
        trail: A row for every document that curation read.
        refused: A row for every one that the snapshot refused.
        kept: The documents that are left, by split.
    """

    root: Path
    folders: dict[str, str]
    files: dict[str, Row]
    manifest: dict[str, Row]
    trail: list[Row]
    refused: list[Row]
    kept: dict[str, list[Document]]

    def file(self, row: Row) -> str:
        """Return the file that a row's document is from."""
        return f"{self.folders[row['source']]}/{row['origin'].partition(':')[0]}"

    def texts(self, *sources: str) -> list[str]:
        """Return the texts of sources that are left."""
        return [document.text for split in self.kept.values() for document in split if document.source in sources]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("corpus")
    corpus.lay_out(folder)
    root = folder / "openbase"
    make_clone(root)
    params = read_yaml(root / "params.yaml")
    corpus.lay_over(params, folder)
    YAML().dump(params, root / "params.yaml")
    call(root, *ONE_TIME, "git", "commit", "--quiet", "--all", "--message=corpus")
    call(root, "dvc", "repro")
    with (shared("corpus") / "SOURCES.tsv").open() as table:
        files = {row["path"]: row for row in csv.DictReader(table, delimiter="\t")}
    out = root / "out"
    sources = params["snapshot"]["sources"]
    return Made(
        root,
        {name: source["root"].removeprefix("../corpus/") for name, source in sources.items()},
        files,
        read_json(out / "snapshot" / "manifest.json")["sources"],
        [row for path in sorted((out / "curate" / "trail").glob("*.parquet")) for row in trail.rows(path)],
        list(read_jsonl(out / "snapshot" / "refused.jsonl")),
        {split.name: list(read(sorted(split.glob("*")))) for split in (out / "curate" / "documents").iterdir()},
    )


def grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[start : start + 5]) for start in range(len(words) - 4)}


def jaccard(one: set[Any], other: set[Any]) -> float:
    shared_grams = len(one & other)
    return shared_grams / (len(one) + len(other) - shared_grams)


def clusters(made: Made) -> list[list[Row]]:
    found = defaultdict(list)
    for row in made.trail:
        if row["cluster"]:
            found[row["cluster"]].append(row)
    return list(found.values())


def test_every_file_is_read_and_every_document_is_kept_dropped_or_refused(made: Made) -> None:
    assert {made.file(row) for row in [*made.trail, *made.refused]} == set(made.files)
    for name, source in made.manifest.items():
        assert source["documents"] == sum(row["source"] == name for row in made.trail)
        assert sum(each["documents"] for each in source["refused"].values()) == sum(
            row["source"] == name for row in made.refused
        )
    outcomes = Counter(row["outcome"] for row in made.trail)
    kept = {row["id"]: row["split"] for row in made.trail if row["outcome"] == "kept"}
    assert {document.id: split for split, found in made.kept.items() for document in found} == kept
    metrics = read_json(made.root / "out/curate/metrics.json")
    assert (metrics["kept"]["documents"], metrics["dropped"]["documents"]) == (outcomes["kept"], outcomes["dropped"])
    assert all(row["reason"] for row in made.trail if row["outcome"] == "dropped")
    assert Counter(row["reason"] for row in made.refused) == {"redirect": 99, "no_text": 6, "namespace_4": 3}


def test_licenses_are_those_at_the_pinned_revision(made: Made) -> None:
    for row in made.trail:
        assert row["license"] == stated(made.files[made.file(row)]["licence"]).expression
    for name, source in made.manifest.items():
        revision = source["settings"]["license_revision"]
        commits = {made.files[made.file(row)]["commit"] for row in made.trail if row["source"] == name}
        assert revision is None or {revision} == commits


def test_share_alike_and_licenses_of_repositories_are_flagged(made: Made) -> None:
    files = [row for row in made.files.values() if row["licence"].startswith("CC-BY-SA")]
    assert sum(int(row["bytes"]) for row in files) == pytest.approx(12e6, rel=0.02)
    flagged = {name for name, source in made.manifest.items() if source["license_flags"]}
    assert flagged == {"enwiki", "xquad", "bgwiki", "xquad_translated", "d2l", "hott"}
    for name in flagged:
        source = made.manifest[name]
        count = {"documents": source["documents"], "bytes": source["bytes"]}
        assert source["license_flags"] == {"copyleft": count, "share_alike": count}
    by_repository = {name for name, each in made.manifest.items() if each["settings"]["license_basis"] == "repository"}
    assert by_repository == {"dvc", "rust_book", "rust_rfcs", "handbook_18f", "digitalgov", "deep_review"}


def test_encodings_are_found_and_recorded(made: Made) -> None:
    found = {
        name: {code: count["documents"] for code, count in each["encodings"].items()}
        for name, each in made.manifest.items()
    }
    assert found.pop("gutenberg") == {"iso8859-1": 1, "utf-8": 6}
    assert found.pop("bgwiki") == {"utf-16": 1}
    assert {code for each in found.values() for code in each} == {"utf-8"}
    (latin,) = [path for path, row in made.files.items() if row["note"] == "ISO-8859-1 bytes"]
    (text,) = [text for text in made.texts("gutenberg") if "Miss Havisham" in text]
    assert text in (shared("corpus") / latin).read_bytes().decode("latin-1")


MARKUP = {
    "enwiki": r"\[\[|\{\{|'''|</?ref\b",
    "bgwiki": r"\[\[|\{\{|'''|</?ref\b",
    "us_history": r"</?(para|section|title|m:|link|term|emphasis)\b",
    "physics": r"</?(para|section|title|m:|link|term|emphasis)\b",
    "standard_ebooks": r"</?(p|section|span|abbr|i|html|body)\b|xmlns",
    "hott": r"\\(section|subsection|textbf|index|cite)\b|\\(begin|end)\{(itemize|enumerate|proof|thm|defn)",
    "open_logic": r"\\(section|subsection|textbf|index|cite)\b|\\(begin|end)\{(itemize|enumerate|proof|thm)",
}


@pytest.mark.parametrize("source", MARKUP)
def test_markup_is_gone(source: str, made: Made) -> None:
    texts = made.texts(source)
    assert texts
    found = sum(len(re.findall(MARKUP[source], text)) for text in texts)
    assert found <= sum(map(len, texts)) / 100_000  # Wikipedia has markup that nobody closed


def test_the_exact_duplicates_are_found(made: Made) -> None:
    groups = defaultdict(list)
    for row in made.trail:
        groups[made.files[made.file(row)]["sha256"]].append(row)
    equal = [rows for rows in groups.values() if len({made.file(row) for row in rows}) > 1]
    assert len(equal) == 25
    compared = [[row for row in rows if row["step"] in (None, "duplicates")] for rows in equal]
    assert sum(len(rows) > 1 for rows in compared) > 15  # the chains dropped the others for reasons of their own
    for rows in compared:
        assert sum(row["outcome"] == "kept" for row in rows) <= 1
        assert len({row["cluster"] for row in rows}) <= 1


def test_editions_of_a_book_are_one_cluster_of_which_the_longest_survives(made: Made) -> None:
    (editions,) = [rows for rows in clusters(made) if rows[0]["source"] == "gutenberg"]
    assert {Path(row["origin"]).name for row in editions} == {"1342-0.txt", "1342.txt", "pandp10.txt"}
    (kept,) = [row for row in editions if row["outcome"] == "kept"]
    assert kept["kept_bytes"] == max(row["kept_bytes"] for row in editions)
    agreement = {
        Path(row["origin"]).name: json.loads(row["events"])[-1]["numbers"]["agreement"]
        for row in editions
        if row is not kept
    }
    assert agreement["1342.txt"] == 1.0
    assert agreement["pandp10.txt"] == pytest.approx(0.916, abs=3 * (0.916 * 0.084 / 112) ** 0.5)


def pages(made: Made) -> dict[str, list[Row]]:
    """Return the pages of Helm's manual that went through the chain, all versions of a page together."""
    found = defaultdict(list)
    for row in made.trail:
        if row["source"] == "helm" and row["step"] in (None, "duplicates"):
            found[re.sub(r"^(docs|versioned_docs/version-\d)/", "", row["origin"])].append(row)
    return found


def test_versions_of_a_manual_are_found_as_theory_says(made: Made) -> None:
    found = {}
    for rows in pages(made).values():
        texts = {row["id"]: grams((shared("corpus") / made.file(row)).read_text()) for row in rows}
        for one, other in combinations(rows, 2):
            same = one["cluster"] is not None and one["cluster"] == other["cluster"]
            found[one["id"], other["id"]] = jaccard(texts[one["id"]], texts[other["id"]]), same
    near = [same for similarity, same in found.values() if similarity >= 0.9]
    far = [same for similarity, same in found.values() if similarity < 0.5]
    assert len(near) > 40 and all(near)  # 1 - (1 - 0.9^8)^14 = 0.9997 each
    assert len(far) > 60 and not any(far)  # 14 * 0.5^8 = 0.05, and few of them agree in 0.7 of the signature


def test_no_cluster_straddles_splits(made: Made) -> None:
    assert len(clusters(made)) > 80
    for rows in clusters(made):
        assert sum(row["outcome"] == "kept" for row in rows) == 1
    sources = ("helm", "rust_book", "nist")
    held_out = [
        grams(each.text) for name in ("validation", "test") for each in made.kept[name] if each.source in sources
    ]
    trained = [grams(each.text) for each in made.kept["train"] if each.source in sources]
    assert held_out
    assert max(jaccard(one, other) for one in held_out for other in trained if other) < 0.9


def contaminated(made: Made) -> Iterator[tuple[str, str, str]]:
    for row in made.trail:
        for tag in row["tags"] or ():
            if tag.startswith("contaminated|"):
                _, benchmark, place, _ = tag.split("|", 3)
                yield made.file(row), benchmark, place


def test_all_contaminated_rows_are_found_and_cut_out(made: Made) -> None:
    answers = read_jsonl(shared("curation") / "decontamination" / "ngram13_overlaps.jsonl")
    wanted = {
        (
            file.removeprefix("corpus/"),
            each["task"].partition("2")[0],
            f"{each['file'].partition('/')[2]}:{each['row']}",
        )
        for each in answers
        for file in each["corpus_files"]
    }
    found = set(contaminated(made))
    assert len({each[1:] for each in wanted}) == 16
    assert wanted <= found  # and a few more, which markup hides in the original files
    assert len(found - wanted) < 8
    marked = [row for row in made.trail if "contaminated" in (row["tags"] or ())]
    assert all("contamination" in row["edits"] for row in marked)
    report = read_json(made.root / "out/curate/report.json")["contamination"]
    assert {name: each["rows"] for name, each in report.items()} == {
        name: len({place for _, other, place in found if other == name}) for name in report
    }


def test_a_dropped_document_is_explained(made: Made) -> None:
    (row,) = [row for row in made.trail if row["origin"].endswith("pandp10.txt")]
    told = json.loads(call(made.root, sys.executable, "-m", "stages.curate", "--explain", row["id"]))
    assert (told["outcome"], told["step"], told["reason"]) == ("dropped", "duplicates", "near_duplicate")
    assert {"boilerplate"} <= set(told["edits"])
    assert {Path(other["origin"]).name for other in told["duplicates"]} == {"1342-0.txt", "1342.txt"}


def test_languages_are_those_of_the_folders(made: Made) -> None:
    told = [(row["origin"][:2], row["language"]) for row in made.trail if row["source"] == "helm_translated"]
    assert sum(folder == language for folder, language in told) > 0.95 * len(told)


def test_what_is_asked_of_the_mixture_is_got(made: Made) -> None:
    domains = read_json(made.root / "out/pretrain/mixture.json")["domains"]
    assert {each["domain"] for each in domains} == {made.manifest[name]["settings"]["domain"] for name in made.manifest}
    assert all(abs(each["difference"]) <= 512 for each in domains)


def test_a_benchmark_that_the_documents_were_checked_against_is_measured(made: Made) -> None:
    copa = read_json(made.root / "out/evaluate/results.json")["benchmarks"]["copa"]
    assert 0.3 < copa["metrics"]["acc,none"] < 0.8  # chance is 0.5


def test_the_release_verifies_and_says_what_it_is_made_of(made: Made) -> None:
    assert "differ" not in call(made.root, sys.executable, "-m", "release.verify", "out/release").splitlines()[-1]
    card = (made.root / "out" / "release" / "README.md").read_text()
    assert all(source in card for source in made.manifest)
    assert "share_alike" in card or "share-alike" in card


def test_a_release_that_does_not_admit_share_alike_is_refused(made: Made, tmp_path: Path) -> None:
    root = tmp_path / "openbase"
    shutil.copytree(made.root, root, symlinks=True)
    params = read_yaml(root / "params.yaml")
    params["release"]["admits"] = []
    YAML().dump(params, root / "params.yaml")
    with pytest.raises(AssertionError, match="share_alike"):
        call(root, sys.executable, "-m", "stages.release")
