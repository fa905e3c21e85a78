"""The command that shows whether training here is deterministic, and what it compares."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.determinism import compare_folders, make_job
from model.layout import LayoutSettings
from stages.errors import UserError
from stages.files import write_jsonl


@pytest.mark.e2e
def test_training_on_a_cpu_is_deterministic_and_survives_a_kill_to_the_bit() -> None:
    command = [sys.executable, "-W", "ignore", "-m", "model.selftest", "--deterministic", "--device", "cpu"]
    ended = subprocess.run([*command, "--steps", "12"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "trained again, weights: equal",
        "trained again, optimizer and random states: equal",
        "trained again, log: equal",
        "killed after step 6 and continued, weights: equal",
        "killed after step 6 and continued, optimizer and random states: equal",
        "killed after step 6 and continued, log: equal",
    ]


def test_a_layout_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tensor_model_parallel_size = 3"):
        make_job(tmp_path, LayoutSettings(tensor_model_parallel_size=3), "cpu", "float32", threads=1, steps=12)


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """The folders of two equal runs of two steps, as far as they are compared."""
    one, other = tmp_path / "one", tmp_path / "other"
    for step in (one / "released" / "step-00000002", one / "step-00000002"):
        step.mkdir(parents=True)
        (step / "__0_0.distcp").write_bytes(b"weights")
    write_jsonl(one / "log.jsonl", [{"step": step, "loss": 0.5, "seconds": 1.0} for step in (1, 2)])
    shutil.copytree(one, other)
    return one, other


def test_equal_runs_compare_equal_whatever_time_they_took(two_folders: tuple[Path, Path]) -> None:
    write_jsonl(two_folders[1] / "log.jsonl", [{"step": step, "loss": 0.5, "seconds": 2.0} for step in (1, 2)])
    assert all(equal for _, equal in compare_folders(*two_folders, 2))


def test_one_bit_of_difference_is_told_by_name(two_folders: tuple[Path, Path]) -> None:
    one, other = two_folders
    (other / "step-00000002" / "__0_0.distcp").write_bytes(b"weightr")
    write_jsonl(other / "log.jsonl", [{"step": step, "loss": 0.5 + step * 1e-16, "seconds": 1.0} for step in (1, 2)])
    found = {"weights": True, "optimizer and random states": False, "log": False}
    assert dict(compare_folders(one, other, 2)) == found
