"""What a snapshot names instead of copying is curated as a copy would be, or not at all."""

import gzip
import json
import pydoc_data.topics
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.corpus.candidates import Reference
from stages.corpus.documents import read
from stages.corpus.sources import FilesSource
from stages.curation import trail
from stages.curation.referred import grouped
from stages.errors import UserError
from stages.files import read_json, read_jsonl, sha256_tree

CURATED = Path("out/curate")
TOPICS = [text for _, text in sorted(pydoc_data.topics.topics.items()) if len(text) < 20_000]
Run = Callable[..., None]
Params = dict[str, Any]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files of Python's reference, of which every fifth topic has a license that is not allowed."""
    root = tmp_path / "texts"
    root.mkdir()
    rows = [{"text": text, "license": "MIT" if number % 5 else "MPL-2.0"} for number, text in enumerate(TOPICS)]
    for number, name in enumerate(("a.jsonl.gz", "b.jsonl.gz", "c.jsonl.gz")):
        lines = [json.dumps(row) + "\n" for row in rows[number::3]]
        (root / name).write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    return root


@pytest.fixture
def take(params: Params, run_stages: Run, root: Path) -> Callable[..., None]:
    """A function that takes a snapshot of the files as they are now, by reference or as a copy."""

    def take(by_reference: bool = True, **changes: Any) -> None:
        source = {"kind": "files", "domain": "prose", "root": str(root), "license_column": "license"}
        params["snapshot"]["sources"] = {"topics": {**source, "by_reference": by_reference, **changes}}
        params["curate"]["chains"]["prose"] = params["curate"]["chains"]["code"]
        with pytest.raises(UserError, match="has no sha256") as raised:
            run_stages("snapshot")
        params["snapshot"]["sources"]["topics"]["sha256"] = str(raised.value)[-64:]
        run_stages("snapshot")

    return take


def largest(root: Path) -> int:
    """Return the bytes of the largest file: with shards of this size, each is a group."""
    return max(path.stat().st_size for path in root.iterdir())


def rows() -> list[dict[str, Any]]:
    return [row for path in sorted((CURATED / "trail").iterdir()) for row in trail.rows(path)]


def test_files_by_reference_are_curated_to_the_bytes_of_a_copy(
    params: Params, take: Callable[..., None], run_stages: Run
) -> None:
    params["snapshot"]["shard_bytes"] = 1 << 25
    found = []
    for by_reference in (False, True):
        take(by_reference)
        run_stages("curate")
        kept = [row for row in rows() if row["step"] != trail.GATE]
        found.append((sha256_tree(CURATED / "documents"), kept))
    assert found[0] == found[1]
    assert read_json(Path("out/snapshot/metrics.json"))["documents"] == 0


def test_what_the_license_gate_refuses_is_accounted_for(
    params: Params, take: Callable[..., None], run_stages: Run
) -> None:
    take(by_reference=False)
    refused = {(row["origin"], row["license"], row["bytes"]) for row in read_jsonl(Path("out/snapshot/refused.jsonl"))}
    take()
    run_stages("curate")
    dropped = [row for row in rows() if row["step"] == trail.GATE]
    assert {(row["origin"], row["license"], row["bytes"]) for row in dropped} == refused
    assert len(rows()) == len(TOPICS)
    report = read_json(CURATED / "report.json")
    assert report["dropped"]["license_not_allowed"]["documents"] == len(refused) == len(dropped)
    assert report["funnel"]["by"]["license"]["MPL-2.0"][0]["left"] == {"documents": 0, "bytes": 0}
    assert report["funnel"]["total"][0]["dropped"]["documents"] == len(refused)


def test_encodings_and_what_licenses_ask_are_recorded_as_of_a_copy(
    params: Params, take: Callable[..., None], run_stages: Run, root: Path
) -> None:
    (root / "d.txt").write_bytes(("Le garçon a déjà mangé à la fenêtre, près de l'été. " * 20).encode("latin-1"))
    (root / "e.txt").write_text("plain\n" * 40)
    params["snapshot"]["licenses"]["allow"].append("MPL-2.0")
    terms = {"license": "MPL-2.0", "license_column": None}
    changes = {**terms, "include": ["*.txt"], "formats": {"encodings": {"d.txt": "latin-1"}}}
    take(by_reference=False, **changes)
    copied = read_json(Path("out/snapshot/manifest.json"))["sources"]["topics"]
    take(**changes)
    run_stages("curate")
    report = read_json(CURATED / "report.json")
    assert report["encodings"] == {"topics": copied["encodings"]}
    assert len(copied["encodings"]) == 2
    assert report["license_flags"] == copied["license_flags"] != {}


def test_only_the_files_that_changed_are_curated_again(
    params: Params, take: Callable[..., None], run_stages: Run, root: Path
) -> None:
    params["snapshot"]["shard_bytes"] = largest(root)
    take()
    run_stages("curate")
    before = {path.name for path in (CURATED / "scratch").iterdir()}
    sifted = {result.name for result in (CURATED / "scratch").iterdir() if list(result.glob("kept-*"))}
    (root / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "one", "license": "MIT"}\n'))
    take()
    run_stages("curate")
    again = sifted & {path.name for path in (CURATED / "scratch").iterdir()}
    assert len(sifted) == 3 and before > sifted
    assert len(again) == 2


def test_a_file_that_changed_since_ends_the_stage_and_nothing_is_half_written(
    params: Params, take: Callable[..., None], run_stages: Run, root: Path
) -> None:
    take()
    changed = root / "b.jsonl.gz"
    whole = changed.read_bytes()
    changed.write_bytes(whole + gzip.compress(b'{"text": "more", "license": "MIT"}\n'))
    with pytest.raises(UserError, match=r"Source 'topics': 'b\.jsonl\.gz' of '.*' is sha256:\S* \(.*not the pinned"):
        run_stages("curate")
    assert {path.name for path in CURATED.iterdir()} == {"scratch"}
    assert not [path for path in (CURATED / "scratch").iterdir() if path.suffix == ".partial"]
    changed.write_bytes(whole)
    run_stages("curate")
    assert (CURATED / "documents/train").is_dir()


def test_settings_and_lists_that_are_not_those_of_the_snapshot_are_refused(
    params: Params, take: Callable[..., None], run_stages: Run
) -> None:
    take()
    source = params["snapshot"]["sources"]["topics"]
    params["snapshot"]["sources"]["topics"] = source | {"text_column": "license"}
    with pytest.raises(UserError, match=r"snapshot\.sources\.topics is not what the snapshot was taken by"):
        run_stages("curate")
    params["snapshot"]["sources"]["topics"] = source
    listed = Path("out/snapshot/references/topics.jsonl")
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"references/topics\.jsonl' is not the list of the snapshot's manifest"):
        run_stages("curate")


@given(st.lists(st.one_of(st.none(), st.integers(0, 50)), max_size=20))
def test_groups_have_all_files_in_order_and_are_no_larger_than_asked(sizes: list[int | None]) -> None:
    files = [Reference(str(number), size, "sha256:0") for number, size in enumerate(sizes)]
    source = FilesSource(kind="files", domain="prose", root="texts", license="MIT")
    groups = list(grouped(source, files, 40))
    assert [file for group in groups for file in group] == files
    assert all(len(group) == 1 or sum(file.size or 0 for file in group) <= 40 for group in groups)


def test_documents_of_several_groups_are_those_of_one(
    params: Params, take: Callable[..., None], run_stages: Run, root: Path
) -> None:
    found = []
    for size in (largest(root), 1 << 25):
        params["snapshot"]["shard_bytes"] = size
        take()
        run_stages("curate")
        found.append({document.id for document in read(sorted((CURATED / "documents").rglob("*.parquet")))})
        shutil.rmtree(CURATED)
    assert found[0] == found[1]
