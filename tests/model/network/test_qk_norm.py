from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import parallel
from model.layout import LayoutSettings
from model.network.qk_norm import AllHeadsNorm
from tests.model.network.splitting import LAYOUTS, check_gradients, config, draw, fill, leaves, own_part
from tests.model.two_processes import TwoProcesses

HEADS, WIDTH = 4, 8


def norm(layout: LayoutSettings, weights: dict[str, Tensor]) -> Any:
    found = AllHeadsNorm(WIDTH, config(layout), 0.1, HEADS)
    fill(found, weights)
    return found


def by_definition(x: Tensor, weight: Tensor) -> Tensor:
    return functional.rms_norm(x.flatten(-2), (HEADS * WIDTH,), weight, 0.1).view_as(x)


def check(layout: LayoutSettings) -> None:
    """Compare this process's heads, and the gradients of them and of their weights, with those of all heads."""
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        weights = leaves(weight=(HEADS * WIDTH,))
        whole, upstream = draw(6, 2, HEADS, WIDTH).requires_grad_(), draw(6, 2, HEADS, WIDTH, seed=9)
        expected = by_definition(whole, weights["weight"])
        expected.backward(upstream)
        assert whole.grad is not None
        module = norm(layout, weights)
        own = own_part(whole.detach(), 2).requires_grad_()
        out = module(own)
        out.backward(own_part(upstream, 2))
        torch.testing.assert_close(out, own_part(expected, 2))
        torch.testing.assert_close(own.grad, own_part(whole.grad, 2), rtol=1e-5, atol=1e-5)
        check_gradients(module, weights)


def test_the_norm_is_over_all_heads_together() -> None:
    check(LayoutSettings())


@pytest.mark.parametrize("layout", LAYOUTS, ids=["", "sequence"])
def test_processes_that_share_the_heads_norm_over_all_of_them(
    two_processes: TwoProcesses, layout: LayoutSettings
) -> None:
    two_processes(check, layout)


def check_shards(layout: LayoutSettings) -> None:
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        rank, size = parallel.tensor_parallel_rank(), layout.tensor_model_parallel_size
        shard = norm(layout, leaves(weight=(HEADS * WIDTH,))).sharded_state_dict("q.")["q.weight"]
        assert shard.global_shape == (HEADS * WIDTH,)
        assert shard.global_offset == (rank * HEADS * WIDTH // size,)


def test_a_checkpoint_has_the_weights_of_all_heads(two_processes: TwoProcesses) -> None:
    check_shards(LayoutSettings())
    two_processes(check_shards, LAYOUTS[0])
