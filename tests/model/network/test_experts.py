"""Biases of routers: they even out how many tokens each expert gets, in steps that are taken."""

from typing import Any

import torch
from torch import Tensor

from model.data.batches import Batch
from model.layout import LayoutSettings
from model.trainer import Trainer
from tests.model import layouts
from tests.model.test_trainer import gradients
from tests.model.two_processes import TwoProcesses

RATE = 0.001
"""The default's."""
MODEL: dict[str, Any] = {"family": layouts.DEEPSEEK, "layers": 3}


def routers(trainer: Trainer) -> list[Any]:
    """Return the routers: of two layers of the model, and of the one for a further token."""
    return [module for module in trainer.modules[0].modules() if hasattr(module, "expert_bias")]


def biases(trainer: Trainer) -> list[Tensor]:
    return [router.expert_bias.clone() for router in routers(trainer)]


def test_a_step_raises_the_experts_with_few_tokens_and_lowers_those_with_many() -> None:
    one = layouts.job(**MODEL)
    with layouts.training(one) as trainer:
        gradients(trainer, one)
        counts = [router.local_tokens_per_expert.clone() for router in routers(trainer)]
        trainer.update(1e-3)
        moved = biases(trainer)
    assert len(moved) == 3
    for count, bias in zip(counts, moved, strict=True):
        assert count.sum() == layouts.BATCH * layouts.SEQ_LENGTH * 2  # each token visits two
        assert torch.equal(bias, RATE * torch.sign(count.mean() - count))
        assert bias.any()


def test_a_step_that_is_not_taken_and_validation_move_nothing() -> None:
    one = layouts.job(**MODEL)
    with layouts.training(one) as trainer:
        gradients(trainer, one)
        trainer.discard()
        assert not torch.stack(biases(trainer)).any()
        gradients(trainer, one, 2)
        counts = [router.local_tokens_per_expert.clone() for router in routers(trainer)]
        list(trainer.token_scores([layouts.batch(0, 1)]))
        for router, count in zip(routers(trainer), counts, strict=True):
            assert torch.equal(router.local_tokens_per_expert, count)
            assert count.sum() == layouts.BATCH * layouts.SEQ_LENGTH * 2  # of the last step alone


def test_biases_and_counts_are_float32_beside_bf16_weights() -> None:
    one = layouts.job(precision="bf16", **MODEL)
    with layouts.training(one) as trainer:
        layouts.train(trainer, one, range(1, 3))
        for router in routers(trainer):
            assert router.weight.dtype == torch.bfloat16
            assert router.expert_bias.dtype == router.local_tokens_per_expert.dtype == torch.float32
            assert set(router.expert_bias.div(RATE).round().abs().tolist()) <= {0, 1, 2}
        held = trainer.weights_state_dict()["model"]
        assert held["decoder.layers.2.mlp.router.expert_bias"].dtype == torch.float32


MANY = {**layouts.DEEPSEEK, "moe": {**layouts.DEEPSEEK["moe"], "num_experts": 16, "router_num_groups": 1}}
"""So many experts that halves of a batch differ in which get too much."""


def check_share(whole: list[Tensor], layout: LayoutSettings) -> None:
    one = layouts.job(layout, family=MANY)
    with layouts.training(one) as trainer:
        gradients(trainer, one)
        own = [router.local_tokens_per_expert.clone() for router in routers(trainer)]
        trainer.update(1e-3)
        assert all(map(torch.equal, biases(trainer), whole))
        alone = [RATE * torch.sign(count.mean() - count) for count in own]
        assert not all(map(torch.equal, alone, whole))


def test_processes_count_the_tokens_of_all(two_processes: TwoProcesses) -> None:
    one = layouts.job(family=MANY)
    with layouts.training(one) as trainer:
        gradients(trainer, one)
        trainer.update(1e-3)
        whole = biases(trainer)
    two_processes(check_share, whole, LayoutSettings(data_parallel_size=2))


def test_training_evens_out_what_a_bias_tilts() -> None:
    one = layouts.job(**MODEL)
    with layouts.training(one) as trainer:
        (router, *_) = routers(trainer)
        router.expert_bias.copy_(torch.tensor([0.02, 0.0, 0.0, 0.0]))
        spread = []
        for _ in range(20):
            step = one.plan.at(1)
            trainer.gradients([Batch(*layouts.batch(0, 2)[:3], None), Batch(*layouts.batch(2, 2)[:3], None)], step)
            spread.append(router.local_tokens_per_expert.std().item())
            trainer.update(0.0)
        assert spread[-1] < spread[0] / 2
