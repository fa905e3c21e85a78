import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]  # ships none
    EventAccumulator,
)

from model.logs.live import LiveLog
from model.logs.trackers import require
from stages.errors import UserError
from tests.model.logged import STEPS, job, progress, row, runtime


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")


@pytest.fixture
def _wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """W&B as a new user has it."""
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "user"))
    monkeypatch.setenv("NETRC", str(tmp_path / "user" / "netrc"))
    yield
    wandb.teardown()


def start(folder: Path, tracker: str, step: int = 0) -> LiveLog:
    folder.mkdir(exist_ok=True)
    return LiveLog(folder, job(), runtime(tracker), progress(step))


def steps(log: LiveLog, first: int, last: int, take: int = 0) -> None:
    for step in range(first, last + 1):
        log.add(row(step, take))


def shown(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the curves as TensorBoard shows them."""
    events = EventAccumulator(str(folder / "tracking" / "tensorboard"))
    events.Reload()
    return {name: [(point.step, point.value) for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_a_package_that_is_missing_is_named_with_the_remedy() -> None:
    with pytest.raises(UserError, match=r"names 'no-such-tracker', which is not installed; `pip install no-such"):
        require(["tensorboard", "no-such-tracker"])


def test_tensorboard_is_found_without_torch() -> None:
    code = "import sys; from model.logs.trackers import require; require(['tensorboard']); "
    code += "sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_tensorboard_shows_an_interrupted_and_a_rolled_back_run_as_one_that_was_not_disturbed(tmp_path: Path) -> None:
    straight = start(tmp_path / "straight", "tensorboard")
    steps(straight, 1, 3)
    steps(straight, 4, STEPS, take=1)
    straight.close()
    log = start(tmp_path / "disturbed", "tensorboard")
    steps(log, 1, 5)
    log.rewind(3)
    steps(log, 4, 8, take=1)
    log.close()
    log = start(tmp_path / "disturbed", "tensorboard", step=6)
    steps(log, 7, STEPS, take=1)
    log.close()
    curves = shown(tmp_path / "disturbed")
    assert curves == shown(tmp_path / "straight")
    assert [step for step, _ in curves["loss"]] == list(range(1, STEPS + 1))
    assert [step for step, _ in curves["validation/domains/code/loss"]] == [4, 8, 12]
    assert {"mfu", "grad_norms/layers", "tasks/arc_easy/acc"} <= curves.keys()


@pytest.mark.usefixtures("_wandb")
def test_wandb_offline_goes_on_in_its_run_and_after_a_roll_back_in_another_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    require(["wandb"])
    folder = tmp_path / "run"
    log = start(folder, "wandb")
    steps(log, 1, 5)
    log.close()
    log = start(folder, "wandb", step=3)
    steps(log, 4, 5)
    log.rewind(3)
    steps(log, 4, 5, take=1)
    log.close()
    files = sorted((folder / "tracking" / "wandb").glob("offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime)
    name = job().fingerprint()[:16]
    assert {file.name for file in files} == {f"run-{name}-0.wandb", f"run-{name}-1.wandb"}
    deadline = time.monotonic() + 60
    while not all(file.stat().st_size > 1000 for file in files):  # W&B's own process writes the end after `finish`
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {entry.name for entry in folder.iterdir()} == {"log.jsonl", "plots", "tracking"}
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.usefixtures("_wandb")
def test_wandb_without_a_login_is_refused_before_training() -> None:
    with pytest.raises(UserError, match="not logged in here; `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=off"):
        require(["wandb"])


@pytest.mark.e2e
@pytest.mark.usefixtures("_wandb")
def test_a_run_goes_on_where_wandb_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    log = start(tmp_path / "run", "wandb")
    steps(log, 1, 3)
    log.close()
    assert len(list((tmp_path / "run" / "tracking" / "wandb").glob("offline-run-*/*.wandb"))) == 1
