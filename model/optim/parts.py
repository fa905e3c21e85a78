"""The parts of a model that people ask about, and what an optimizer holds of each weight."""

from collections.abc import Iterator
from typing import Any

from model import megatron

megatron.install()

from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer  # noqa: E402 - after install
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params  # noqa: E402

_MARKS = {
    "embedding": "embedding.",
    "output": "output_layer.",
    "norm": "norm.",
    "attention": ".self_attention.",
    "experts": ".experts.",
    "router": ".router.",
    "mlp": ".mlp.",
    "other": "",
}

PARTS = tuple(_MARKS)
"""Every part; a model need not have all."""


def part(name: str) -> str:
    """Return the part that a weight of Megatron-Core's name belongs to: the first whose mark the name has."""
    return next(part for part, mark in _MARKS.items() if mark in name)


def held(optimizer: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each weight with what one of Megatron-Core's optimizers steps: it, a float32 copy, or a piece of either."""
    if isinstance(optimizer, DistributedOptimizer):
        weights = optimizer.model_fp32_groups + optimizer.model_float16_groups
        stepped = optimizer.shard_fp32_groups + optimizer.shard_fp32_from_float16_groups
    elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
        weights = optimizer.fp32_from_fp32_groups + optimizer.float16_groups
        stepped = optimizer.fp32_from_fp32_groups + optimizer.fp32_from_float16_groups
    else:
        weights = stepped = [optimizer.get_parameters()]
    for weights_of_group, stepped_of_group in zip(weights, stepped, strict=True):
        yield from zip(weights_of_group, stepped_of_group, strict=True)
