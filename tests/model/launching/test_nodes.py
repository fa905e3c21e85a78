"""Jobs of two nodes, which are two stages on this machine: one is lost, told to stop, or fails for good."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from model.launching.runtime import RuntimeSettings
from model.logs.log import read
from stages.files import read_json
from tests.model import counting
from tests.model.test_training import change, digests

pytestmark = pytest.mark.e2e

Stage = subprocess.Popen[bytes]


def two_nodes(max_restarts: int = 3) -> RuntimeSettings:
    """Settings of two nodes that meet at a free port."""
    with socket.socket() as some:
        some.bind(("localhost", 0))
        endpoint = f"localhost:{some.getsockname()[1]}"
    return counting.runtime({"kind": "torchrun", "nodes": 2, "endpoint": endpoint, "max_restarts": max_restarts})


def start_both(folder: Path, settings: RuntimeSettings, steps: int, **environment: str) -> list[Stage]:
    """Start two nodes, the endpoint's first."""
    first = counting.start(folder, settings, steps, 0.05, **environment)
    while not (folder / "runtime.json").exists():
        time.sleep(0.01)
    time.sleep(0.5)
    return [first, counting.start(folder, settings, steps, 0.05, **environment)]


def end(stage: Stage) -> tuple[int, str]:
    """Wait for a stage, and return its exit code and what it said."""
    _, errors = stage.communicate(timeout=120)
    return stage.returncode, errors.decode()


def test_the_loss_of_the_endpoints_node_restarts_the_job_when_it_is_back(tmp_path: Path) -> None:
    settings = two_nodes()
    first, second = start_both(tmp_path, settings, 60)
    counting.wait_for_step(5, tmp_path, first, second)
    first.kill()
    first.communicate()
    code, said = end(counting.start(tmp_path, settings, 60, 0.05))
    assert (code, end(second)[0]) == (0, 0), said
    assert read_json(tmp_path / "results.json") == counting.counted(60, 2)


def test_both_nodes_end_together_when_one_is_told_to_stop(tmp_path: Path) -> None:
    nodes = start_both(tmp_path, two_nodes(), 10_000)
    counting.wait_for_step(5, tmp_path, *nodes)
    nodes[1].send_signal(signal.SIGTERM)
    told = time.monotonic()
    for node in nodes:
        code, said = end(node)
        assert code == 1
        assert said.splitlines()[-1].startswith("pretrain: interrupted")
        assert "Traceback" not in said
    assert time.monotonic() - told < 30
    assert read_json(tmp_path / "paused.json")["step"] == counting.step_of(tmp_path)


def test_both_nodes_end_when_one_fails_for_good(tmp_path: Path) -> None:
    nodes = start_both(tmp_path, two_nodes(max_restarts=1), 10_000, COUNTING_FAULT="error")
    for node in nodes:
        code, said = end(node)
        assert code == 1
        assert said.splitlines()[-1].startswith("pretrain: training stopped")
    assert not (tmp_path / "results.json").exists()


def test_a_node_that_is_killed_and_started_again_leaves_the_bytes_of_an_undisturbed_run(
    workspace: Callable[..., Path], stage_environment: dict[str, str]
) -> None:
    def stage(root: Path) -> Stage:
        command = [sys.executable, "-m", "stages.pretrain"]
        return subprocess.Popen(command, cwd=root, env=stage_environment, stderr=subprocess.PIPE)

    layout = {"data_parallel_size": 2, "distributed_optimizer": True}
    straight, root = (workspace(name, steps=24, layout=layout, checkpoint_interval=5) for name in ("straight", "nodes"))
    undisturbed = stage(straight)
    change(root, "runtime", launch=two_nodes().launch.model_dump(mode="json"))
    first = stage(root)
    time.sleep(0.5)
    second = stage(root)
    while max((len(read(log)) for log in root.glob("out/pretrain/scratch/*/log.jsonl")), default=0) < 8:
        assert first.poll() is None and second.poll() is None
        time.sleep(0.01)
    second.kill()
    second.communicate()
    assert not (root / "out" / "pretrain" / "checkpoint").exists(), "the run must not have ended"
    for node in (first, stage(root), undisturbed):
        code, said = end(node)
        assert code == 0, said
    assert digests(root) == digests(straight)
