"""Whole runs of the pretrain stage, as `dvc repro` starts them."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from model.logs.log import TIMING, read
from stages.files import read_json, sha256_file, sha256_tree, write_json
from tests.model import corpus

pytestmark = pytest.mark.e2e

RESULTS = (
    "initial",
    "checkpoint",
    "checkpoints",
    "log.jsonl",
    "documents.parquet",
    "mixture.json",
    "metrics.json",
    "run.json",
    "plots",
)
"""The outputs of the stage that dvc.yaml declares."""
Run = Callable[[str, Path], None]
Workspace = Callable[..., Path]


def digests(root: Path) -> dict[str, str]:
    out = root / "out" / "pretrain"
    files = [file for name in RESULTS for file in ((out / name).rglob("*") if (out / name).is_dir() else [out / name])]
    return {str(file.relative_to(out)): sha256_file(file) for file in files if file.is_file()}


def rows(root: Path) -> list[dict[str, Any]]:
    return read(root / "out" / "pretrain" / "log.jsonl")


def losses(root: Path) -> list[float]:
    return [row["loss"] for row in rows(root)]


def change(root: Path, section: str, **values: Any) -> None:
    params = read_json(root / "params.yaml")
    params[section].update(values)
    write_json_in_order(root / "params.yaml", params)


def write_json_in_order(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


def failure(root: Path, environment: dict[str, str]) -> str:
    """Run the stage, which must fail, and return the last line of what it says."""
    command = [sys.executable, "-m", "stages.pretrain"]
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr
    return ended.stderr.splitlines()[-1]


def test_a_run_on_two_processes_follows_the_loss_curve_of_one(workspace: Workspace, run_stage: Run) -> None:
    one, two = workspace("one", steps=30), workspace("two", steps=30, tensor_parallel=2)
    run_stage("pretrain", one)
    run_stage("pretrain", two)
    assert losses(one)[-1] < losses(one)[0] - 0.5, "the model must learn, or the curves agree for nothing"
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_bf16_follows_float32_and_its_export_is_the_trained_model(workspace: Workspace, run_stage: Run) -> None:
    exact, half = workspace("exact", tensor_parallel=2), workspace("half", tensor_parallel=2, precision="bf16")
    run_stage("pretrain", exact)
    run_stage("pretrain", half)
    run_stage("export", half)
    assert losses(half) == pytest.approx(losses(exact), abs=0.05)
    assert losses(half) != losses(exact)


def test_results_are_whole_and_without_timing(workspace: Workspace, run_stage: Run) -> None:
    root = workspace("run", averaging={"decay": 0.5}, released={"powers_until": 4, "every": 5}, z_loss=1e-4)
    run_stage("pretrain", root)
    out = root / "out" / "pretrain"
    fields = {"step", "phase", "tokens", "batch", "first_sample", "loss", "z_loss", "grad_norm", "grad_norms"}
    for row, timed in zip(rows(root), read(out / "timing.jsonl"), strict=True):
        assert set(row) - {"validation"} == fields | {"learning_rate"}
        assert set(timed) == set(row) | set(TIMING)
    last = rows(root)[-1]
    assert last["tokens"] == 12 * 4 * 64
    assert set(last["validation"]["domains"]) == {"code", "prose"}
    released = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert released == ["average", *(f"step-{step:08d}" for step in (0, 1, 2, 4, 5, 10))]
    assert read_json(out / "run.json")["weights"]["final"] == sha256_tree(out / "checkpoint")
    assert (out / "ranks" / "rank-00000").is_dir()
    assert not list((out / "scratch").iterdir())


def test_phases_and_a_batch_ramp_make_one_log_and_a_model_of_the_longest_context(
    workspace: Workspace, run_stage: Run
) -> None:
    phases = {
        "main": {"tokens": 64 * 20, "blend": {"code": 0.5, "prose": 0.5}, "global_batch_size": 4},
        "anneal": {"targets": {"prose": 64 * 8}, "global_batch_size": 4},
        "long": {
            "tokens": 128 * 4,
            "blend": {"code": 0.5, "prose": 0.5},
            "global_batch_size": 2,
            "seq_length": 128,
            "rotary_base": 50000.0,
        },
    }
    ramp = {"start": 2, "increment": 2, "tokens": 64 * 8}
    root = workspace("run", phases=phases, batch_ramp=ramp, document_mask=True)
    run_stage("pretrain", root)
    run_stage("export", root)
    log = rows(root)
    assert [row["step"] for row in log] == list(range(1, len(log) + 1))
    assert [(name, len(list(of))) for name, of in itertools.groupby(log, key=lambda row: row["phase"])] == [
        ("main", 4 + 3),
        ("anneal", 2),
        ("long", 2),
    ]
    assert [row["batch"] for row in log] == [2] * 4 + [4] * 5 + [2] * 2
    seen = pq.read_table(root / "out" / "pretrain" / "documents.parquet").to_pylist()
    assert {piece["domain"] for piece in seen if piece["step"] in (8, 9)} == {"prose"}
    assert sum(piece["end"] - piece["start"] for piece in seen) == log[-1]["tokens"]
    check_mixture(root, seen, {row["step"]: row["phase"] for row in log})
    config = read_json(root / "out" / "export" / "model" / "config.json")
    assert config["max_position_embeddings"] == 128
    assert config["rope_parameters"]["rope_theta"] == 50000.0


def check_mixture(root: Path, seen: list[dict[str, Any]], phases: dict[int, str]) -> None:
    """Require that the mixture of a run is what a count of its recorded pieces gives."""
    mixture = read_json(root / "out" / "pretrain" / "mixture.json")
    got, unique = Counter[tuple[str | None, str]](), Counter[tuple[str | None, str]]()
    known: set[tuple[str | None, str, int, int]] = set()
    for piece in seen:
        for phase in (phases[piece["step"]], None):
            part = (phase, piece["domain"])
            tokens = {(*part, piece["document"], token) for token in range(piece["start"], piece["end"])}
            got[part] += len(tokens)
            unique[part] += len(tokens - known)
            known |= tokens
    rows = {(row["phase"], row["domain"]): row for row in mixture["domains"]}
    assert {part: row["got_tokens"] for part, row in rows.items()} == got
    assert {part: row["unique_tokens"] for part, row in rows.items()} == unique
    asked = {part: row["asked_tokens"] for part, row in rows.items()}
    assert asked["main", "code"] == 64 * 10
    assert asked["anneal", "prose"] == 64 * 8
    assert {name: entry["tokens"] for name, entry in mixture["sources"].items()} == {
        corpus.DOMAINS[domain]: got[None, domain] for domain in corpus.DOMAINS
    }


def test_a_decay_branched_from_a_stable_checkpoint_is_the_run_that_was_planned_so(
    workspace: Workspace, run_stage: Run
) -> None:
    wsd = {"style": "wsd", "learning_rate": 3e-3, "min_learning_rate": 0.0, "warmup_steps": 2, "decay_steps": 4}
    planned = workspace("planned", steps=10, schedule=wsd)
    stable = {**wsd, "style": "constant", "decay_steps": 0}
    released = {"powers_until": 0, "every": 6, "with_optimizer": True}
    long = workspace("long", steps=14, schedule=stable, released=released)
    run_stage("pretrain", planned)
    run_stage("pretrain", long)
    start = {"kind": "checkpoint", "path": str(long / "out" / "pretrain" / "checkpoints" / "step-00000006")}
    branch = workspace("branch", steps=10, schedule=wsd, start=start)
    run_stage("pretrain", branch)
    assert rows(branch) == rows(planned)[6:]
    assert rows(long)[:6] == rows(planned)[:6]
    weights = "checkpoint/__0_0.distcp"
    assert digests(branch)[weights] == digests(planned)[weights] != digests(long)[weights]


def test_training_goes_on_from_an_exported_model(
    workspace: Workspace, run_stage: Run, stage_environment: dict[str, str]
) -> None:
    first = workspace("first")
    run_stage("pretrain", first)
    run_stage("export", first)
    start = {"kind": "huggingface", "path": str(first / "out" / "export" / "model")}
    second = workspace("second", steps=6, start=start, tensor_parallel=2)
    run_stage("pretrain", second)
    assert losses(second)[0] < losses(first)[1] - 0.5
    shutil.rmtree(second / "out" / "pretrain")
    change(second, "model", rotary_base=5e5)
    assert "rope_theta" in failure(second, stage_environment) or "rotary_base" in failure(second, stage_environment)


def test_lm_eval_tasks_run_on_the_live_model(workspace: Workspace, run_stage: Run) -> None:
    root = workspace("run", steps=6, tensor_parallel=2)
    folder = root / "tasks"
    folder.mkdir()
    questions = [{"question": f"def f{n}(", "choices": ["self):", "\n\n\n"], "answer": n % 2} for n in range(6)]
    (folder / "data.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "data.jsonl")}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}],
    }
    write_json(folder / "tiny.yaml", task)
    change(root, "pretrain", eval_tasks={"tasks": ["tiny"], "include_path": str(folder), "limit": 6, "interval": 3})
    run_stage("pretrain", root)
    measured = {row["step"]: row["tasks"]["tiny"] for row in rows(root) if "tasks" in row}
    assert set(measured) == {3, 6}
    assert all(0 <= values["acc"] <= 1 for values in measured.values())


def test_a_guard_rolls_back_and_an_interrupted_run_does_the_same(
    workspace: Workspace, run_stage: Run, stage_environment: dict[str, str]
) -> None:
    spike = {"window": 3, "z_score": 0.5, "policy": "roll_back"}
    settings = {"guards": {"loss_spike": spike, "max_actions": 100}, "checkpoint_interval": 4, "steps": 16}
    root = workspace("run", **settings)
    run_stage("pretrain", root)
    events = [event for row in rows(root) for event in row.get("events", [])]
    assert events, "losses of so small a batch jump by half a standard deviation"
    assert all(event["action"] == "roll_back" and event["back_to"] == (event["step"] - 1) // 4 * 4 for event in events)
    assert [row["step"] for row in rows(root)] == list(range(1, 17))
    samples = [row["first_sample"] for row in rows(root)]
    assert samples == sorted(set(samples)), "data that was left out does not come again"
    left_out = sum((event["step"] - event["back_to"]) * 4 for event in events)
    assert samples[-1] == 15 * 4 + left_out
    killed = workspace("killed", **settings)
    kill_after(events[0]["step"] - 1, 0.1, killed, stage_environment)
    run_stage("pretrain", killed)
    assert digests(killed) == digests(root)


def test_a_guard_leaves_updates_out(workspace: Workspace, run_stage: Run) -> None:
    spike = {"window": 3, "z_score": 0.5, "policy": "skip"}
    root, plain = (
        workspace(name, steps=20, guards=guards) for name, guards in (("a", {"loss_spike": spike}), ("b", {}))
    )
    run_stage("pretrain", root)
    run_stage("pretrain", plain)
    events = [event for row in rows(root) for event in row.get("events", [])]
    skipped = [event["step"] for event in events]
    assert skipped
    assert [row["step"] for row in rows(root)] == [step for step in range(1, 21) if step not in skipped]
    first = skipped[0]
    assert losses(root)[: first - 1] == losses(plain)[: first - 1]
    assert losses(root)[-1] != losses(plain)[-1]
    assert read_json(root / "out" / "pretrain" / "metrics.json")["events"] == len(events)


def test_a_diverging_run_stops_with_its_step_and_leaves_no_result(
    workspace: Workspace, stage_environment: dict[str, str]
) -> None:
    root = workspace("run")
    schedule = {"style": "constant", "learning_rate": 1e30, "min_learning_rate": 0.0, "warmup_steps": 0}
    change(root, "pretrain", schedule=schedule, optimizer={"weight_decay": 0.1, "clip_grad": 1e30})
    last = failure(root, stage_environment)
    assert last.startswith("pretrain: training stopped: rank 0") and "loss" in last and "step " in last
    assert not (root / "out" / "pretrain" / "checkpoint").exists()


def test_a_run_told_to_stop_says_so_and_continues_to_the_same_bytes(
    workspace: Workspace, run_stage: Run, stage_environment: dict[str, str]
) -> None:
    straight, root = (workspace(name, tensor_parallel=2, steps=15, checkpoint_interval=4) for name in ("a", "b"))
    run_stage("pretrain", straight)
    process = start(root, stage_environment)
    wait_for(5, root, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("pretrain: interrupted")
    run_stage("pretrain", root)
    assert digests(root) == digests(straight)


def test_a_time_limit_saves_and_what_is_not_identity_may_change_on_resume(
    workspace: Workspace, run_stage: Run, stage_environment: dict[str, str]
) -> None:
    root = workspace("run", steps=12)
    change(root, "runtime", time_limit_minutes=1e-6)
    assert "time limit reached at step 0" in failure(root, stage_environment)
    change(root, "runtime", time_limit_minutes=None, data_workers=3, keep_checkpoints=1, async_checkpoints=False)
    run_stage("pretrain", root)
    fresh = workspace("fresh", steps=12)
    run_stage("pretrain", fresh)
    assert digests(root) == digests(fresh)


def test_another_parameter_does_not_take_up_the_checkpoint(
    workspace: Workspace, run_stage: Run, stage_environment: dict[str, str]
) -> None:
    root, fresh = (workspace(name, steps=steps, checkpoint_interval=4) for name, steps in (("run", 15), ("fresh", 12)))
    kill_after(7, 0, root, stage_environment)
    (root / "params.yaml").write_text((fresh / "params.yaml").read_text())
    run_stage("pretrain", root)
    run_stage("pretrain", fresh)
    assert digests(root) == digests(fresh)


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
