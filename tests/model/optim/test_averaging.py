"""The average of real weights in training, against torch's, through checkpoints and between layouts."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from model import parallel
from model.checkpoints.checkpoint import load, save
from model.job import Job
from model.layout import LayoutSettings
from model.trainer import Trainer
from tests.model.optimizing import TIED, job, stepped, train, training, unsplit, weights
from tests.model.two_processes import TwoProcesses

DECAY = 0.75


def averaging(layout: LayoutSettings | None = None, **settings: Any) -> Job:
    return job(layout, averaging={"decay": DECAY}, **settings)


def masters(trainer: Trainer) -> dict[str, Tensor]:
    """Return copies of the float32 weights, whole."""
    if trainer.ddp[0].ddp_config.use_distributed_optimizer:
        return {name: unsplit(trainer, name, weight).float() for name, weight in weights(trainer).items()}
    return {name: unsplit(trainer, name, own) for name, (own, _) in stepped(trainer).items()}


def run_steps(run: Job, steps: range, folder: Path, end: str, begin: str | None = None) -> None:
    """Train; save a checkpoint and, as `<end>-released`, the average; write what torch makes of the same weights."""
    with training(run) as trainer:
        if begin:
            trainer.load_state_dict(load(folder / begin, trainer.sharded_state_dict(is_loading=True)))
        average: dict[str, Tensor] = {}
        for step in steps:
            train(trainer, run, range(step, step + 1))
            current = masters(trainer)
            if average:
                get_ema_multi_avg_fn(DECAY)(list(average.values()), list(current.values()), step)
            average = average or current
        if parallel.is_first():
            torch.save(average, folder / f"{end}.pt")
        save(folder / end, trainer.sharded_state_dict())
        save(folder / f"{end}-released", trainer.averaged_weights_state_dict())


def released(folder: Path, name: str, **settings: Any) -> dict[str, Tensor]:
    """Return the weights of a released average, as one process loads them."""
    with training(job(**settings)) as trainer:
        trainer.load_weights(load(folder / f"{name}-released", trainer.weights_state_dict()))
        return {name: weight.detach().clone() for name, weight in weights(trainer).items()}


def require_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_average_is_that_of_torch_on_the_float32_weights(tmp_path: Path, precision: str) -> None:
    run_steps(averaging(precision=precision), range(1, 5), tmp_path, "average")
    require_equal(released(tmp_path, "average"), torch.load(tmp_path / "average.pt"))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize(
    "degrees",
    [
        {"tensor_model_parallel_size": 2},
        {"data_parallel_size": 2},
        {"data_parallel_size": 2, "distributed_optimizer": True},
    ],
)
def test_the_average_of_any_layout_can_be_released(
    two_processes: TwoProcesses, tmp_path: Path, degrees: dict[str, Any], precision: str
) -> None:
    two_processes(
        run_steps, averaging(LayoutSettings(**degrees), precision=precision), range(1, 5), tmp_path, "average"
    )
    require_equal(released(tmp_path, "average"), torch.load(tmp_path / "average.pt"))


@pytest.mark.parametrize(
    "degrees",
    [
        {"tensor_model_parallel_size": 2},
        {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2},
    ],
)
def test_the_average_goes_on_from_a_checkpoint_of_another_layout(
    two_processes: TwoProcesses, tmp_path: Path, degrees: dict[str, Any]
) -> None:
    two_processes(run_steps, averaging(LayoutSettings(**degrees), model=TIED), range(1, 3), tmp_path, "first")
    before = released(tmp_path, "first", model=TIED)
    with training(averaging(model=TIED)) as trainer:
        wanted = trainer.sharded_state_dict(is_loading=True)
        del wanted["random_states"]
        trainer.load_state_dict(load(tmp_path / "first", wanted))
        train(trainer, averaging(model=TIED), range(3, 4))
        expected = {name: x.lerp(weights(trainer)[name].detach(), 1 - DECAY) for name, x in before.items()}
        save(tmp_path / "second-released", trainer.averaged_weights_state_dict())
    require_equal(released(tmp_path, "second", model=TIED), expected)


def test_an_interrupted_average_is_the_uninterrupted_one(tmp_path: Path) -> None:
    run_steps(averaging(), range(1, 5), tmp_path, "straight")
    run_steps(averaging(), range(1, 3), tmp_path, "half")
    run_steps(averaging(), range(3, 5), tmp_path, "resumed", "half")
    require_equal(released(tmp_path, "resumed"), released(tmp_path, "straight"))


def test_before_the_first_step_the_average_is_the_weights(tmp_path: Path) -> None:
    run_steps(averaging(), range(0), tmp_path, "start")
    with training(job()) as trainer:
        fresh = {name: weight.detach().clone() for name, weight in weights(trainer).items()}
    require_equal(released(tmp_path, "start"), fresh)
