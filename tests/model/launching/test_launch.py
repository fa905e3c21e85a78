"""Jobs on one machine: ended, told to end, stuck and started again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model.job import read_job
from model.launching import launch
from stages.errors import UserError
from stages.files import read_json
from tests.model import counting

pytestmark = pytest.mark.e2e

LOCAL = {"kind": "local"}
Stage = subprocess.Popen[bytes]


def said_at_the_end(stage: Stage) -> str:
    """Wait for a stage that must fail, and return the last line of what it says."""
    _, errors = stage.communicate(timeout=120)
    assert stage.returncode == 1, errors.decode()
    return errors.decode().splitlines()[-1]


def ended_well(stage: Stage) -> str:
    """Wait for a stage that must end well, and return what it says."""
    _, errors = stage.communicate(timeout=120)
    assert stage.returncode == 0, errors.decode()
    return errors.decode()


def log(folder: Path, rank: int, start: int) -> str:
    return (folder / "ranks" / f"rank-{rank:05d}" / f"{start:04d}.log").read_bytes().decode()


def test_a_process_that_crashes_leaves_where_it_was_and_restarts_the_job_from_its_newest_checkpoint(
    tmp_path: Path,
) -> None:
    ended_well(
        counting.start(
            tmp_path, counting.runtime({**LOCAL, "max_restarts": 1}), 10, 0.05, COUNTING_FAULT="one segfault"
        )
    )
    assert read_json(tmp_path / "results.json") == counting.counted(10, 2)
    assert "Fatal Python error: Segmentation fault" in log(tmp_path, 1, 1)
    assert "in segfault\n" in log(tmp_path, 1, 1)
    assert "\rstep 3" in log(tmp_path, 0, 1)
    assert "\rstep 10" in log(tmp_path, 0, 2)
    assert "\rstep 3" not in log(tmp_path, 0, 2), "it began anew"


def test_a_failed_process_is_named_with_its_error_and_its_log(tmp_path: Path) -> None:
    stage = counting.start(tmp_path, counting.runtime(LOCAL), 40, 0.05, COUNTING_FAULT="error")
    line = said_at_the_end(stage)
    assert line.startswith("pretrain: training stopped: rank 1 ended with exit code 1: ValueError: the third step went")
    assert f"'{tmp_path}/ranks/rank-00001/0001.log'" in line
    assert "in raise_error\n" in log(tmp_path, 1, 1)
    assert not (tmp_path / "results.json").exists()


def test_a_job_told_to_stop_saves_and_goes_on_later_with_its_progress_live_on_the_screen(tmp_path: Path) -> None:
    settings = counting.runtime({**LOCAL, "max_restarts": 3})  # it could restart, and must not
    stage = counting.start(tmp_path, settings, 200, 0.05)
    assert stage.stderr
    seen = b""
    while b"\rstep 5" not in seen:
        seen += os.read(stage.stderr.fileno(), 100)
    stage.send_signal(signal.SIGTERM)
    assert said_at_the_end(stage).startswith("pretrain: interrupted")
    paused = read_json(tmp_path / "paused.json")
    assert 5 <= paused["step"] < 200
    ended_well(counting.start(tmp_path, settings, paused["step"] + 5, 0.05))
    assert read_json(tmp_path / "results.json") == counting.counted(paused["step"] + 5, 2)
    assert f"\rstep {paused['step']}" in log(tmp_path, 0, 1)
    assert log(tmp_path, 0, 2).startswith(f"\rstep {paused['step'] + 1}")


def test_a_job_told_to_stop_while_it_starts_does_not_start_again(tmp_path: Path) -> None:
    stage = counting.start(tmp_path, counting.runtime({**LOCAL, "max_restarts": 3}), 10_000, 0.05)
    while not (tmp_path / "ranks" / "rank-00001").exists():
        time.sleep(0.01)
    time.sleep(0.2)  # they do not listen to signals yet
    stage.send_signal(signal.SIGINT)
    assert said_at_the_end(stage).startswith("pretrain: interrupted")
    assert counting.step_of(tmp_path) == 0


def test_a_second_signal_ends_a_job_that_does_not_heed_the_first(tmp_path: Path) -> None:
    stage = counting.start(tmp_path, counting.runtime(LOCAL), 10_000, 0.05)
    counting.wait_for_step(3, tmp_path, stage)
    os.kill(counting.pid_of(1, tmp_path), signal.SIGSTOP)
    stage.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert stage.poll() is None
    stage.send_signal(signal.SIGTERM)
    assert said_at_the_end(stage).startswith("pretrain: interrupted")
    assert not (tmp_path / "paused.json").exists()


def test_a_job_at_its_time_limit_says_how_far_it_came_and_is_not_finished(tmp_path: Path) -> None:
    stage = counting.start(tmp_path, counting.runtime(LOCAL, time_limit_minutes=0.1), 10_000, 0.05)
    line = said_at_the_end(stage)
    step = counting.step_of(tmp_path)
    assert line.startswith(f"pretrain: time limit reached at step {step} (")
    assert not (tmp_path / "results.json").exists()


def test_a_stuck_process_restarts_the_job_and_leaves_where_the_others_waited(tmp_path: Path) -> None:
    stage = counting.start(tmp_path, counting.runtime({**LOCAL, "max_restarts": 1}, heartbeat_seconds=6), 40, 0.05)
    counting.wait_for_step(5, tmp_path, stage)
    os.kill(counting.pid_of(1, tmp_path), signal.SIGSTOP)
    said = ended_well(stage)
    assert "has taken no step for" in said
    assert "in all_reduce\n" in log(tmp_path, 0, 1)
    assert read_json(tmp_path / "results.json") == counting.counted(40, 2)


def test_a_job_is_written_as_it_is_and_nodes_that_cannot_share_it_are_refused_before_any_process_starts(
    tmp_path: Path,
) -> None:
    settings = counting.runtime({"kind": "torchrun", "nodes": 2, "endpoint": "localhost:1"})
    stage = counting.start(tmp_path, settings, 1, 0, COUNTING_PROCESSES="3")
    assert "makes 3 processes, which runtime.launch.nodes = 2 nodes cannot share" in said_at_the_end(stage)
    assert not (tmp_path / "ranks").exists()
    job = read_job(tmp_path / "job.json")
    assert job.fingerprint() == counting.job(3).fingerprint()
    assert list(job.pretrain.phases) == ["z", "a"], "the order of the phases is their meaning"
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["job.json", "runtime.json"]


def test_a_node_without_the_first_rank_waits_until_the_results_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(UserError, match="another node has not written the results"):
        launch.wait_for_results(folder, seconds=0.1)
    subprocess.Popen(["sh", "-c", f"sleep 1; rmdir '{folder}'"])
    began = time.monotonic()
    launch.wait_for_results(folder)
    assert time.monotonic() - began > 0.5


def test_launching_imports_torch_only_when_it_is_asked_to() -> None:
    code = "from model.launching import process, runtime, signals; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=counting.ROOT).returncode == 0
