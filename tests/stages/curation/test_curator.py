import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stages.corpus.documents import Document, read
from stages.curation import curator, trail
from stages.curation.engine import Local, Work, finish, started
from stages.curation.minhash import Deduplication, MinHash
from stages.curation.parts import Part
from stages.curation.split import SPLITS, Split
from stages.files import sha256_tree
from tests.stages.curation.world import chain, pinned, versions, write_parts

DUPLICATES = Deduplication(near=MinHash(ngram=5, bands=6, rows=4, min_agreement=0.5, seed=0), survivor="first")
SPLIT = Split(validation=0.2, test=0.3, seed=0)
ONE, TWO = Local(kind="local", workers=1), Local(kind="local", workers=2)
STEPS = chain(
    {"step": "length", "min_characters": 500, "max_characters": 6000}, {"step": "repeated_lines", "max_fraction": 0.4}
)
Curate = Callable[..., str]


@pytest.fixture
def sources() -> dict[str, list[str]]:
    return versions(60)


@pytest.fixture
def parts(sources: dict[str, list[str]], tmp_path: Path) -> list[Part]:
    return write_parts(tmp_path / "snapshot", sources, STEPS, shard_bytes=150_000)


@pytest.fixture
def curate(tmp_path: Path) -> Curate:
    """A function that curates parts into out/ anew, and returns the digest of all that it wrote."""

    def curate(parts: list[Part], engine: Local = ONE, duplicates: Deduplication = DUPLICATES) -> str:
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with started(engine) as workers:
            curator.curate(parts, duplicates, SPLIT, workers, tmp_path / "scratch", tmp_path / "out")
        return sha256_tree(tmp_path / "out")

    return curate


def entries(folder: Path) -> list[dict[str, object]]:
    return [row for path in sorted((folder / "out" / "trail").iterdir()) for row in trail.rows(path)]


def documents(folder: Path, split: str) -> list[Document]:
    return list(read(sorted((folder / "out" / "documents" / split).glob("*.parquet"))))


def finished(folder: Path) -> set[str]:
    return {each.name for each in (folder / "scratch").iterdir()}


def test_every_document_is_accounted_for_once(parts: list[Part], curate: Curate, tmp_path: Path) -> None:
    curate(parts)
    before = [document.id for document in read([part.path for part in parts])]
    rows = entries(tmp_path)
    assert [row["id"] for row in rows] == before
    kept = {row["id"]: row["split"] for row in rows if row["outcome"] == "kept"}
    assert kept == {document.id: split for split in SPLITS for document in documents(tmp_path, split)}
    assert {row["reason"] for row in rows if row["outcome"] == "dropped"} >= {
        "too_long",
        "exact_duplicate",
        "near_duplicate",
    }


def test_of_equal_and_nearly_equal_texts_one_survives(parts: list[Part], curate: Curate, tmp_path: Path) -> None:
    curate(parts)
    clusters: dict[object, list[dict[str, object]]] = {}
    for row in entries(tmp_path):
        if row["cluster"]:
            clusters.setdefault(row["cluster"], []).append(row)
    assert len(clusters) > 10
    for cluster in clusters.values():
        assert len(cluster) > 1
        assert [row["outcome"] for row in cluster].count("kept") == 1
        assert cluster[0]["outcome"] == "kept"


def test_the_split_of_a_cluster_does_not_depend_on_who_survives(
    parts: list[Part], curate: Curate, tmp_path: Path
) -> None:
    splits = []
    for survivor in ("first", "longest"):
        curate(parts, duplicates=DUPLICATES.model_copy(update={"survivor": survivor}))
        kept = [row for row in entries(tmp_path) if row["cluster"] and row["outcome"] == "kept"]
        splits.append({row["cluster"]: row["split"] for row in kept})
    assert splits[0] == splits[1]
    assert set(splits[0].values()) == set(SPLITS)


def test_without_near_duplicates_only_equal_texts_are_dropped(
    parts: list[Part], curate: Curate, tmp_path: Path
) -> None:
    curate(parts, duplicates=Deduplication(near=None, survivor="first"))
    kept = [document.sha256 for split in SPLITS for document in documents(tmp_path, split)]
    assert len(set(kept)) == len(kept)
    assert "near_duplicate" not in {row["reason"] for row in entries(tmp_path)}


def test_the_bytes_do_not_depend_on_the_number_of_workers(parts: list[Part], curate: Curate, tmp_path: Path) -> None:
    one = curate(parts, ONE)
    shutil.rmtree(tmp_path / "scratch")
    assert curate(parts, TWO) == one


def test_shards_of_another_size_hold_the_same_documents(
    sources: dict[str, list[str]], curate: Curate, tmp_path: Path
) -> None:
    found = []
    for size in (80_000, 1 << 25):
        curate(write_parts(tmp_path / str(size), sources, STEPS, size))
        found.append([documents(tmp_path, split) for split in SPLITS])
    assert found[0] == found[1]


def test_a_changed_source_has_its_own_parts_done_again_and_no_other(
    sources: dict[str, list[str]], parts: list[Part], curate: Curate, tmp_path: Path
) -> None:
    curate(parts)
    before = finished(tmp_path)
    sources["old"][0] += " One more sentence."
    changed = write_parts(tmp_path / "changed", sources, STEPS, shard_bytes=150_000)
    same = {part.sha256 for part in parts} & {part.sha256 for part in changed}
    again = curate(changed)
    assert len(same) == len(parts) - 1
    assert len(before & finished(tmp_path)) >= len(same)
    shutil.rmtree(tmp_path / "scratch")
    assert curate(changed) == again


class InterruptionError(Exception):
    pass


def test_a_run_that_is_interrupted_anywhere_goes_on_to_the_same_bytes(
    parts: list[Part], curate: Curate, tmp_path: Path
) -> None:
    whole = curate(parts)
    total = len(finished(tmp_path))
    for stop in range(1, total, 4):
        shutil.rmtree(tmp_path / "scratch")
        with pytest.raises(InterruptionError):
            curator.curate(parts, DUPLICATES, SPLIT, interrupted(stop), tmp_path / "scratch", tmp_path / "half")
        assert not (tmp_path / "half").exists()
        kept = finished(tmp_path)
        assert len(kept) == stop
        assert curate(parts) == whole


def interrupted(after: int) -> Callable[[dict[Path, Work]], None]:
    """Return workers that do so many pieces, then stop in the middle of one."""
    left = iter(range(after))

    def work(todo: dict[Path, Work]) -> None:
        for folder, piece in todo.items():
            if next(left, None) is None:
                raise InterruptionError
            finish(piece, folder)

    return work


def test_evaluation_data_is_part_of_the_key(tmp_path: Path, parts: list[Part], curate: Curate) -> None:
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - {split: test, path: t.jsonl}\n---\n"
    )
    step = {"step": "contamination", "ngram": 8, "action": "drop", "margin": 0, "max_cuts": 0}
    keys = []
    for passage in ("one text", "another text"):
        (tmp_path / "bench" / "t.jsonl").write_text(f'{{"text": "{passage}"}}\n')
        checked = chain({**step, "benchmarks": {"peps": pinned(tmp_path / "bench", ("test",))}})
        curate([Part(part.path, part.sha256, part.domain, checked) for part in parts])
        keys.append(finished(tmp_path))
    assert not keys[0] & keys[1]
