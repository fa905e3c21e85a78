"""Whole runs that are killed at random moments, or find a checkpoint damaged, end with the bytes of one that is not.

Kills come at random steps or while a run starts, by SIGKILL or SIGTERM, to the launcher or to one rank. The launcher
starts a rank that was killed again; what ends, the test starts again. The runs drop activations, average the weights,
release checkpoints, and save one every third step, so that many kills find one being written.
"""

import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from model.logs.log import read
from tests.model import corpus
from tests.model.checkpoints.test_checkpoint import delete_the_digests, flip_a_byte, truncate
from tests.model.test_training import digests, kill_after, start

pytestmark = pytest.mark.e2e

STEPS = 60
SETTINGS: dict[str, Any] = {
    "steps": STEPS,
    "checkpoint_interval": 3,
    "dropout": 0.1,
    "averaging": {"decay": 0.9},
    "released": {"powers_until": 4, "every": 20},
}
ONE: dict[str, Any] = {}
TENSOR_AND_SEQUENCE = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
ZERO = {"data_parallel_size": 2, "distributed_optimizer": True}
Run = Callable[[str, Path], None]
Process = subprocess.Popen[str]


@dataclass(frozen=True)
class Kill:
    """An end of a run before its last step."""

    step: int
    """What its log must have reached."""
    delay: float
    """Seconds after that."""
    of_rank: bool
    """Whether it is sent to a rank, chosen at random, or to the launcher."""
    by: signal.Signals


def kills(count: int) -> Iterator[Kill]:
    """Yield kills of every kind at random, ever later steps, the first while the run starts."""
    choice = random.Random(count)
    steps = [0, *sorted(choice.sample(range(1, STEPS - 25), count - 1))]
    kinds = [(of_rank, by) for of_rank in (True, False) for by in (signal.SIGKILL, signal.SIGTERM)] * count
    for step, kind in zip(steps, choice.sample(kinds, count), strict=True):
        yield Kill(step, choice.uniform(0, 0.05), *kind)


def workspace(root: Path, **settings: Any) -> Path:
    corpus.write(root)
    params = corpus.params(**SETTINGS, **settings)
    params["runtime"]["launch"]["max_restarts"] = STEPS
    corpus.write_params(root, params)
    return root


@pytest.mark.parametrize(
    ("layout", "count"), [(ONE, 10), (TENSOR_AND_SEQUENCE, 6), (ZERO, 6)], ids=["one", "tensor", "zero"]
)
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    layout: dict[str, Any], count: int, tmp_path: Path, stage_environment: dict[str, str]
) -> None:
    straight, root = (workspace(tmp_path / name, layout=layout) for name in ("straight", "killed"))
    uninterrupted = start(straight, stage_environment)
    process = None
    for kill in kills(count):
        process = process or start(root, stage_environment)
        wait_for(kill.step, root, process)
        time.sleep(kill.delay)
        process = carry_out(kill, process)
        assert not (root / "out" / "pretrain" / "checkpoint").exists(), "the run must not have ended"
    for last in (process or start(root, stage_environment), uninterrupted):
        _, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
    assert digests(root) == digests(straight)


def carry_out(kill: Kill, process: Process) -> Process | None:
    """Kill, and return the run if it goes on: ranks that do not end of their own will are started again."""
    if not kill.of_rank:
        process.send_signal(kill.by)
        process.communicate(timeout=300)  # ends only when every process that the stage started has ended too
        return None
    while not (ranks := ranks_of(process)):
        time.sleep(0.01)
    random.Random(kill.step).choice(ranks).send_signal(kill.by)
    while process.poll() is None:
        if any(rank not in ranks for rank in ranks_of(process)):
            return process
        time.sleep(0.01)
    return None


def ranks_of(process: Process) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if is_rank(child)]


def is_rank(process: psutil.Process) -> bool:
    try:
        return "model.launching.process" in process.cmdline()
    except psutil.Error:  # it has ended
        return False


def wait_for(step: int, root: Path, process: Process) -> None:
    """Return when the log of the run in `root` has the step, be it from an earlier start."""
    deadline = time.monotonic() + 300
    while max((len(read(log)) for log in root.glob("out/pretrain/scratch/*/log.jsonl")), default=0) < step:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_whose_newest_checkpoint_is_damaged_uses_the_one_before_and_ends_with_the_same_bytes(
    tmp_path: Path, run_stage: Run, stage_environment: dict[str, str]
) -> None:
    straight, root = (workspace(tmp_path / name, layout=ONE) for name in ("straight", "damaged"))
    uninterrupted = start(straight, stage_environment)
    expected = []
    for step, damage in ((10, flip_a_byte), (20, truncate), (30, delete_the_digests)):
        kill_after(step, 0, root, stage_environment)
        newest = max(root.glob("out/pretrain/scratch/*/step-????????"))
        damage(newest)
        expected.append(f"'{newest.relative_to(root)}' is damaged")
    run_stage("pretrain", root)
    said = "".join(file.read_text() for file in sorted(root.glob("out/pretrain/ranks/rank-00000/*.log")))
    assert [said.count(message) for message in expected] == [1, 1, 1]
    uninterrupted.communicate(timeout=300)
    assert digests(root) == digests(straight)
