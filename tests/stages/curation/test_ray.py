import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.curation.curator import curate
from stages.curation.engine import Local, Ray, Work, Workers, run, started
from stages.curation.minhash import Deduplication, MinHash
from stages.curation.split import Split
from stages.errors import UserError
from stages.files import sha256_tree
from tests.stages.curation.pieces import KillsItsWorkerOnce, Write
from tests.stages.curation.world import chain, versions, write_parts

DUPLICATES = Deduplication(near=MinHash(ngram=5, bands=6, rows=4, min_agreement=0.5, seed=0), survivor="first")
SPLIT = Split(validation=0.2, test=0.3, seed=0)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def on_ray() -> Iterator[Workers]:
    """Two workers of Ray, on this machine."""
    pytest.importorskip("ray", reason="the engine is an extra")
    with started(Ray(kind="ray", address=None, workers=2)) as workers:
        yield workers


def test_killed_workers_lose_nothing_and_the_bytes_are_those_of_one_process(
    on_ray: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths, and a folder that Ray's workers were not started in
    parts = write_parts(Path("snapshot"), versions(60), chain(), shard_bytes=150_000)
    kills: list[Path] = []

    def deadly(todo: dict[Path, Work]) -> None:
        """Have a worker killed in each round of work."""
        kills.append(tmp_path / f"killed {len(kills)}")
        first = next(iter(todo))
        on_ray({**todo, first: KillsItsWorkerOnce(todo[first], kills[-1])})

    with started(Local(kind="local", workers=1)) as alone:
        curate(parts, DUPLICATES, SPLIT, alone, Path("scratch"), Path("alone"))
    shutil.rmtree("scratch")
    curate(parts, DUPLICATES, SPLIT, deadly, Path("scratch"), Path("on ray"))
    assert len({kill.read_text() for kill in kills}) == 3
    assert sha256_tree(Path("on ray")) == sha256_tree(Path("alone"))


def test_a_fault_reaches_the_user_as_it_is(on_ray: Workers, tmp_path: Path) -> None:
    bad = Write("bad", tmp_path / "log", UserError("no space left"))
    with pytest.raises(UserError, match=r"^no space left$"):
        run([("bad", bad)], tmp_path / "scratch", on_ray)
    assert not list((tmp_path / "scratch").iterdir())
