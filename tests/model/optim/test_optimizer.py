"""What the optimizer does to real weights, against torch and Megatron-Core, and that layouts make no difference."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from model.checkpoints.checkpoint import load, save
from model.families.family import ModelSettings
from model.job import Job
from model.layout import LayoutSettings
from model.optim import optimizer
from model.trainer import Gradients
from tests.model.optimizing import (
    LLAMA,
    MIXTRAL,
    TIED,
    find_gradient,
    job,
    states,
    stepped,
    train,
    training,
    weights,
)
from tests.model.two_processes import TwoProcesses

RATE = 1e-2
OLMO = ModelSettings.model_validate({**LLAMA.model_dump(exclude_defaults=True), "family": "olmo2"})
NEOX = ModelSettings.model_validate(
    {**LLAMA.model_dump(exclude_defaults=True), "family": "gpt_neox", "num_query_groups": 4, "rotary_percent": 0.5}
)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("model", [LLAMA, OLMO, NEOX], ids=["llama", "olmo2", "gpt_neox"])
def test_matrices_decay_and_norms_and_biases_do_not(kind: str, model: ModelSettings) -> None:
    run = job(model=model, optimizer={"kind": kind, "weight_decay": 0.5})
    with training(run) as trainer:
        for weight in weights(trainer).values():
            weight.data += 0.1  # biases begin with 0
        before = {name: weight.detach().clone() for name, weight in weights(trainer).items()}
        for chunk in trainer.ddp:
            chunk.zero_grad_buffer()
        trainer.optimizer.prepare_grads()
        optimizer.apply(trainer.optimizer, run.pretrain, RATE, 0.0)
        for name, weight in weights(trainer).items():
            factor = 1 - RATE * 0.5 if weight.dim() == 2 else 1
            torch.testing.assert_close(weight.detach(), factor * before[name], rtol=1e-7, atol=0)


def test_adamw_with_clipping_is_that_of_torch() -> None:
    run = job(optimizer={"clip_grad": 0.1})
    with training(run) as trainer:
        expected = {name: torch.nn.Parameter(x.detach().clone()) for name, x in weights(trainer).items()}
        groups = [
            {"params": [x for x in expected.values() if x.dim() == 2], "weight_decay": 0.1},
            {"params": [x for x in expected.values() if x.dim() == 1], "weight_decay": 0.0},
        ]
        oracle = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
        for step in range(1, 6):
            assert find_gradient(trainer, run, step).grad_norm > 0.1
            for name, (own, _) in stepped(trainer).items():
                expected[name].grad = own.grad.clone()
            torch.nn.utils.clip_grad_norm_(expected.values(), 0.1)
            oracle.step()
            trainer.update(RATE)
        for name, weight in weights(trainer).items():
            torch.testing.assert_close(weight.detach(), expected[name].detach(), rtol=1e-5, atol=1e-7)


def test_hyperparameters_are_those_of_the_settings_also_after_a_checkpoint_of_others(tmp_path: Path) -> None:
    with training(job(optimizer={"adam_beta2": 0.99, "adam_eps": 1e-6})) as trainer:
        save(tmp_path / "other", trainer.sharded_state_dict())
    run = job()
    with training(run) as trainer:
        trainer.load_state_dict(load(tmp_path / "other", trainer.sharded_state_dict(is_loading=True)))
        train(trainer, run, range(1, 2), rate=0.25)
        for group in trainer.optimizer.param_groups:
            assert (group["lr"], group["betas"], group["eps"]) == (0.25, (0.9, 0.95), 1e-8)


def check_norms(layout: LayoutSettings, model: ModelSettings, start: Path, expected: Gradients) -> None:
    """Require the norms of one process, the same ones on every rank, and Megatron-Core's own total."""
    run = job(layout, model)
    with training(run) as trainer:
        trainer.load_weights(load(start, trainer.weights_state_dict()))
        found = find_gradient(trainer, run, 1)
        everywhere: list[Any] = [None, None]
        dist.all_gather_object(everywhere, found)
        assert everywhere == [found, found]
        assert found.grad_norm == pytest.approx(trainer.optimizer.get_grad_norm(), rel=1e-6)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)
        assert found.grad_norms == pytest.approx(expected.grad_norms, rel=1e-5)


@pytest.mark.parametrize(
    ("degrees", "model"),
    [
        ({"tensor_model_parallel_size": 2}, LLAMA),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, LLAMA),
        ({"pipeline_model_parallel_size": 2}, TIED),
        ({"pipeline_model_parallel_size": 2}, LLAMA),
        ({"data_parallel_size": 2}, LLAMA),
        ({"data_parallel_size": 2, "distributed_optimizer": True}, LLAMA),
        ({"context_parallel_size": 2, "distributed_optimizer": True}, LLAMA),
        ({"tensor_model_parallel_size": 2, "sequence_parallel": True}, MIXTRAL),
        ({"data_parallel_size": 2, "expert_model_parallel_size": 2}, MIXTRAL),
        ({"data_parallel_size": 2, "expert_model_parallel_size": 2, "distributed_optimizer": True}, MIXTRAL),
    ],
)
def test_gradient_norms_are_the_same_under_every_layout(
    two_processes: TwoProcesses, tmp_path: Path, degrees: dict[str, Any], model: ModelSettings
) -> None:
    run = job(model=model)
    with training(run) as trainer:
        save(tmp_path / "start", trainer.weights_state_dict())
        expected = find_gradient(trainer, run, 1)
    assert expected.grad_norm == pytest.approx(math.hypot(*expected.grad_norms.values()))
    two_processes(check_norms, LayoutSettings(**degrees), model, tmp_path / "start", expected)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_shows_in_the_norms(value: float) -> None:
    run = job()
    with training(run) as trainer:
        find_gradient(trainer, run, 1)
        stepped(trainer)["decoder.layers.1.mlp.linear_fc2.weight"][0].grad[0, 0] = value
        total, parts = optimizer.gradient_norms(trainer.optimizer)
        assert not math.isfinite(total)
        assert [part for part, norm in parts.items() if not math.isfinite(norm)] == ["mlp"]


def run_steps(run: Job, steps: range, folder: Path, end: str, begin: str | None = None) -> None:
    """Train from the checkpoint `begin`, save the checkpoint `end`, and write what is in it beside it, by rank."""
    with training(run) as trainer:
        if begin:
            wanted = trainer.sharded_state_dict(is_loading=True)
            del wanted["random_states"]  # a layout's own
            trainer.load_state_dict(load(folder / begin, wanted))
        train(trainer, run, steps)
        torch.save(states(trainer), folder / f"{end}-{dist.get_rank()}.pt")
        save(folder / end, trainer.sharded_state_dict())


def written(folder: Path, end: str) -> dict[str, Tensor]:
    """Return what all ranks of `run_steps` wrote."""
    found: dict[str, Tensor] = {}
    for file in sorted(folder.glob(f"{end}-*.pt")):
        found |= torch.load(file)
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_sharing_the_states_changes_no_weight_and_resumes_exactly(
    two_processes: TwoProcesses, tmp_path: Path, precision: str
) -> None:
    shared = job(LayoutSettings(data_parallel_size=2, distributed_optimizer=True), precision=precision)
    alone = job(LayoutSettings(data_parallel_size=2), precision=precision)
    two_processes(run_steps, alone, range(1, 5), tmp_path, "alone")
    two_processes(run_steps, shared, range(1, 5), tmp_path, "straight")
    two_processes(run_steps, shared, range(1, 3), tmp_path, "half")
    two_processes(run_steps, shared, range(3, 5), tmp_path, "resumed", "half")
    for rank in range(2):
        resumed = torch.load(tmp_path / f"resumed-{rank}.pt")
        assert equal(resumed, torch.load(tmp_path / f"straight-{rank}.pt"))
        assert any("exp_avg_sq" in key for key in resumed)
    expected = written(tmp_path, "alone")
    for key, value in written(tmp_path, "straight").items():
        if "parameter" in key:
            assert torch.equal(value, expected[key])


TENSOR = LayoutSettings(tensor_model_parallel_size=2)
INTERLEAVED = LayoutSettings(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2)


@pytest.mark.parametrize(("first", "second"), [(TENSOR, None), (None, TENSOR), (INTERLEAVED, TENSOR)])
def test_states_of_muon_and_adamw_move_between_layouts_without_a_change(
    two_processes: TwoProcesses, tmp_path: Path, first: LayoutSettings | None, second: LayoutSettings | None
) -> None:
    for layout, steps, *names in (first, range(1, 4), "first"), (second, range(0), "second", "first"):
        run = job(layout, TIED, {"kind": "muon"})
        if layout is None:
            run_steps(run, steps, tmp_path, *names)
        else:
            two_processes(run_steps, run, steps, tmp_path, *names)
    assert equal(written(tmp_path, "first"), written(tmp_path, "second"))
