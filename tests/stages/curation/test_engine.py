from pathlib import Path

import pytest

from stages.curation import engine
from stages.curation.engine import Local, prune, run, started
from stages.errors import UserError
from tests.stages.curation.pieces import KillsItsWorker, Write

ENGINES = [Local(kind="local", workers=1), Local(kind="local", workers=2)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def texts(folders: list[Path]) -> list[str]:
    return [(folder / "text").read_text() for folder in folders]


@pytest.mark.parametrize("settings", ENGINES)
def test_results_come_in_order_and_are_made_once(settings: Local, log: Path, scratch: Path) -> None:
    work = [(f"key {text}", Write(text, log)) for text in "cabc"]
    with started(settings) as workers:
        assert texts(run(work, scratch, workers)) == ["c", "a", "b", "c"]
        assert texts(run(work[:2], scratch, workers)) == ["c", "a"]
    assert sorted(log.read_text().split()) == ["a", "b", "c"]


@pytest.mark.parametrize("settings", ENGINES)
def test_what_fails_leaves_nothing_and_what_was_done_is_kept(settings: Local, log: Path, scratch: Path) -> None:
    work = [("good", Write("good", log)), ("bad", Write("bad", log, UserError("no space left")))]
    with started(settings) as workers, pytest.raises(UserError, match="no space left"):
        run(work, scratch, workers)
    assert [folder.name for folder in scratch.iterdir()] == ["good"]


def test_a_run_goes_on_from_what_a_killed_one_has_finished(log: Path, scratch: Path) -> None:
    (scratch / "b.123.partial").mkdir(parents=True)
    (scratch / "a").mkdir()
    (scratch / "a" / "text").write_text("from before")
    with started(ENGINES[0]) as workers:
        assert texts(run([(key, Write(key, log)) for key in "ab"], scratch, workers)) == ["from before", "b"]
    assert sorted(folder.name for folder in scratch.iterdir()) == ["a", "b"]


def test_what_a_killed_worker_was_at_is_done_again(log: Path, scratch: Path) -> None:
    work = [("deadly", KillsItsWorker("deadly", log)), *((key, Write(key, log)) for key in "ab")]
    with started(ENGINES[1]) as workers:
        assert texts(run(work, scratch, workers)) == ["deadly", "a", "b"]
        assert texts(run([("c", Write("c", log))], scratch, workers)) == ["c"]
    assert log.read_text().split().count("deadly") == 2
    assert not list(scratch.glob("*.partial"))


def test_what_kills_every_worker_is_an_error_that_says_so(log: Path, scratch: Path) -> None:
    work = [("good", Write("good", log)), ("deadly", KillsItsWorker("deadly", log, times=99))]
    with started(ENGINES[1]) as workers, pytest.raises(UserError, match=r"killed 3 times in a row.*memory"):
        run(work, scratch, workers)
    assert (scratch / "good").is_dir()
    assert not (scratch / "deadly").exists()


def test_a_worker_that_is_overtaken_changes_nothing(log: Path, tmp_path: Path) -> None:
    folder = tmp_path / "key"

    class IsOvertaken(Write):
        def __call__(self, partial: Path) -> None:
            engine.finish(Write("first", log), folder)
            super().__call__(partial)

    engine.finish(IsOvertaken("second", log), folder)
    assert texts([folder]) == ["first"]
    assert [each.name for each in tmp_path.iterdir() if each.is_dir()] == ["key"]


def test_pruning_keeps_what_it_is_told_to(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
    prune(tmp_path, [tmp_path / "b"])
    assert [folder.name for folder in tmp_path.iterdir()] == ["b"]
