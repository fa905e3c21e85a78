"""Whole runs of the pretrain stage, as `dvc repro` starts them."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model.log import TIMING, read
from stages.files import sha256_file

pytestmark = pytest.mark.e2e

RESULTS = ("initial", "checkpoint", "log.jsonl", "metrics.json", "run.json", "plots")
"""The outputs of the stage that dvc.yaml declares."""


def digests(root: Path) -> dict[str, str]:
    out = root / "out" / "pretrain"
    files = [file for name in RESULTS for file in ((out / name).rglob("*") if (out / name).is_dir() else [out / name])]
    return {str(file.relative_to(out)): sha256_file(file) for file in files if file.is_file()}


def losses(root: Path) -> list[float]:
    return [row["loss"] for row in read(root / "out" / "pretrain" / "log.jsonl")]


def test_tensor_parallel_training_follows_the_same_loss_curve(
    workspace: Callable[..., Path], run_stage: Callable[[str, Path], None]
) -> None:
    one, two = workspace("one", steps=50), workspace("two", steps=50, tensor_parallel=2)
    run_stage("pretrain", one)
    run_stage("pretrain", two)
    assert len(losses(one)) == 50
    assert losses(one)[-1] < losses(one)[0] - 1, "the model must learn, or the curves agree for nothing"
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_data_parallel_training_follows_the_same_loss_curve(
    workspace: Callable[..., Path], run_stage: Callable[[str, Path], None]
) -> None:
    one = workspace("one")
    two = workspace("two", layout={"tensor_model_parallel_size": 1, "data_parallel_size": 2})
    run_stage("pretrain", one)
    run_stage("pretrain", two)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_bf16_follows_float32_and_its_export_is_the_trained_model(
    workspace: Callable[..., Path], run_stage: Callable[[str, Path], None]
) -> None:
    exact, half = workspace("exact", tensor_parallel=2), workspace("half", tensor_parallel=2, precision="bf16")
    run_stage("pretrain", exact)
    run_stage("pretrain", half)
    run_stage("export", half)
    assert losses(half) == pytest.approx(losses(exact), abs=0.05)
    assert losses(half) != losses(exact)


def test_a_log_line_has_every_field_and_results_have_no_timing(
    workspace: Callable[..., Path], run_stage: Callable[[str, Path], None]
) -> None:
    root = workspace("run")
    run_stage("pretrain", root)
    out = root / "out" / "pretrain"
    fields = {"step", "tokens", "loss", "grad_norm", "learning_rate"}
    for row, timed in zip(read(out / "log.jsonl"), read(out / "timing.jsonl"), strict=True):
        assert set(row) - {"validation"} == fields
        assert set(timed) == set(row) | set(TIMING)
    last = read(out / "log.jsonl")[-1]
    assert last["tokens"] == 12 * 4 * 64
    assert set(last["validation"]["domains"]) == {"code", "prose"}
    assert not list((out / "scratch").iterdir())


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    tensor_parallel: int,
    workspace: Callable[..., Path],
    run_stage: Callable[[str, Path], None],
    stage_environment: dict[str, str],
) -> None:
    straight = workspace("straight", tensor_parallel=tensor_parallel, steps=15, checkpoint_interval=4)
    run_stage("pretrain", straight)
    killed = workspace("killed", tensor_parallel=tensor_parallel, steps=15, checkpoint_interval=4)
    choice = random.Random(tensor_parallel)
    for after_step in sorted(choice.sample(range(1, 15), 3)):
        kill_after(after_step, choice.uniform(0, 0.3), killed, stage_environment)
        assert not (killed / "out" / "pretrain" / "checkpoint").exists()
    run_stage("pretrain", killed)
    assert digests(killed) == digests(straight)


def test_a_run_told_to_stop_says_so_and_continues_later(
    workspace: Callable[..., Path], run_stage: Callable[[str, Path], None], stage_environment: dict[str, str]
) -> None:
    root = workspace("run", tensor_parallel=2, checkpoint_interval=4)
    process = start(root, stage_environment)
    wait_for(5, root, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("pretrain: interrupted")
    run_stage("pretrain", root)
    assert len(losses(root)) == 12


def kill_after(step: int, delay: float, root: Path, environment: dict[str, str]) -> None:
    """Start the stage and send SIGKILL to it, and to it alone, a moment after its log reached a step."""
    process = start(root, environment)
    wait_for(step, root, process)
    time.sleep(delay)
    process.kill()
    process.communicate(timeout=30)  # ends only when every process that the stage started has ended too


def start(root: Path, environment: dict[str, str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "stages.pretrain"]
    return subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(step: int, root: Path, process: "subprocess.Popen[str]") -> None:
    """Return when the log of the run in `root` has the step."""
    deadline = time.monotonic() + 300
    while max((len(read(log)) for log in root.glob("out/pretrain/scratch/*/log.jsonl")), default=0) < step:
        assert process.poll() is None, "the run ended before the step was seen"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_parameter_does_not_take_up_the_checkpoint(
    workspace: Callable[..., Path], run_stage: Callable[[str, Path], None], stage_environment: dict[str, str]
) -> None:
    root, fresh = (workspace(name, steps=steps, checkpoint_interval=4) for name, steps in (("run", 15), ("fresh", 12)))
    kill_after(7, 0, root, stage_environment)
    (root / "params.yaml").write_text((fresh / "params.yaml").read_text())
    run_stage("pretrain", root)
    run_stage("pretrain", fresh)
    assert digests(root) == digests(fresh)


def test_a_diverging_run_stops_with_its_step_and_leaves_no_result(
    workspace: Callable[..., Path], stage_environment: dict[str, str]
) -> None:
    root = workspace("run")
    settings = json.loads((root / "params.yaml").read_text())
    settings["pretrain"]["optimizer"].update(learning_rate=1e30, min_learning_rate=0.0, clip_grad=1e30)
    (root / "params.yaml").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "stages.pretrain"]
    ended = subprocess.run(command, cwd=root, env=stage_environment, capture_output=True, text=True)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("pretrain: training stopped: rank 0") and "loss" in last
    assert not (root / "out" / "pretrain" / "checkpoint").exists()
