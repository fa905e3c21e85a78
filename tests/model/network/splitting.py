"""Modules whose weights tensor-parallel processes share, filled from whole weights."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402 - after install

from model import parallel  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402

LAYOUTS = [
    LayoutSettings(tensor_model_parallel_size=2),
    LayoutSettings(tensor_model_parallel_size=2, sequence_parallel=True),
]


def config(layout: LayoutSettings, **changes: Any) -> TransformerConfig:
    """Return the configuration of a small model whose heads are 8 wide."""
    small = {"num_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "layernorm_epsilon": 0.1}
    degrees = {
        "tensor_model_parallel_size": layout.tensor_model_parallel_size,
        "sequence_parallel": layout.sequence_parallel,
    }
    return TransformerConfig(use_cpu_initialization=True, **small, **degrees, **changes)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def own_part(x: Tensor, dim: int) -> Tensor:
    """Return this tensor-parallel process's share of a tensor."""
    return x.chunk(parallel.tensor_parallel_group().size(), dim)[parallel.tensor_parallel_rank()].contiguous()


def fill(module: torch.nn.Module, whole: dict[str, Tensor]) -> None:
    """Give every weight of a module its share of the whole one."""
    for name, weight in module.named_parameters():
        split = getattr(weight, "tensor_model_parallel", False)
        weight.data.copy_(own_part(whole[name], weight.partition_dim) if split else whole[name])  # type: ignore[attr-defined]


def check_gradients(module: torch.nn.Module, whole: dict[str, Tensor]) -> None:
    """Require that every weight has its share of the gradient of the whole one, summed where it is marked for that."""
    for name, weight in module.named_parameters():
        assert weight.grad is not None
        expected = whole[name].grad
        assert expected is not None
        if getattr(weight, "tensor_model_parallel", False):
            expected = own_part(expected, weight.partition_dim)  # type: ignore[attr-defined]
        elif getattr(weight, "sequence_parallel", False):
            dist.all_reduce(weight.grad, group=parallel.tensor_parallel_group())
        torch.testing.assert_close(weight.grad, expected, rtol=1e-5, atol=1e-5)


def leaves(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Return drawn weights by name."""
    drawn = enumerate(shapes.items(), 1)
    return {name: draw(*shape, seed=seed).requires_grad_() for seed, (name, shape) in drawn}
