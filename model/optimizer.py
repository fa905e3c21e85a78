"""The optimizer: AdamW or Muon inside Megatron-Core's, the norms of its gradients, and one update."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core.distributed import DistributedDataParallel  # noqa: E402 - after install
from megatron.core.optimizer import (  # noqa: E402
    ChainedOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer  # noqa: E402
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params  # noqa: E402
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate  # noqa: E402
from megatron.core.transformer.module import param_is_not_shared  # noqa: E402

from model.settings import OptimizerSettings, PretrainSettings  # noqa: E402

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
"""Parts of a model and what the names of their weights have; the first that fits."""


def part(name: str) -> str:
    """Return the part of the model that a weight of Megatron-Core's name belongs to."""
    return next(part for part, mark in _MARKS.items() if mark in name)


def build_optimizer(settings: PretrainSettings, chunks: list[DistributedDataParallel]) -> ChainedOptimizer:
    """Return the optimizer of this rank's weights.

    Args:
        settings: Whose `optimizer` says which.
        chunks: This rank's runs of layers, whose gradients the data-parallel wrapper reduces.
    """
    config = _config(settings, chunks[0])
    optimizer = get_megatron_optimizer(config, chunks, config_overrides=get_standard_config_overrides(config))
    _label(optimizer, chunks)
    return optimizer


def _config(settings: PretrainSettings, chunk: DistributedDataParallel) -> OptimizerConfig:
    chosen = settings.optimizer
    return OptimizerConfig(
        optimizer="adam",
        lr=settings.schedule.learning_rate,
        min_lr=settings.schedule.min_learning_rate,
        weight_decay=chosen.weight_decay,
        adam_beta1=chosen.adam_beta1,
        adam_beta2=chosen.adam_beta2,
        adam_eps=chosen.adam_eps,
        clip_grad=chosen.clip_grad,
        bf16=chunk.config.bf16,
        params_dtype=chunk.config.params_dtype,
        use_distributed_optimizer=chunk.ddp_config.use_distributed_optimizer,
        overlap_param_gather=chunk.ddp_config.overlap_param_gather,
    )


def _held(optimizer: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each weight with what one of Megatron-Core's optimizers steps: it, a float32 copy, or a piece of either."""
    if isinstance(optimizer, DistributedOptimizer):
        weights = optimizer.model_fp32_groups + optimizer.model_float16_groups
        held = optimizer.shard_fp32_groups + optimizer.shard_fp32_from_float16_groups
    elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
        weights = optimizer.fp32_from_fp32_groups + optimizer.float16_groups
        held = optimizer.fp32_from_fp32_groups + optimizer.fp32_from_float16_groups
    else:
        weights = held = [optimizer.get_parameters()]
    for weights_of_group, held_of_group in zip(weights, held, strict=True):
        yield from zip(weights_of_group, held_of_group, strict=True)


def _label(optimizer: ChainedOptimizer, chunks: list[DistributedDataParallel]) -> None:
    """Note on what the optimizer steps the part of the model, where this rank counts its gradient."""
    names = {weight: name for chunk in chunks for name, weight in chunk.named_parameters()}
    for chained in optimizer.chained_optimizers:
        for weight, held in _held(chained):
            held.part = part(names[weight]) if _counts(weight, chunks[0]) else None


def _counts(weight: Any, chunk: DistributedDataParallel) -> bool:
    """Return whether this rank, of those with the same gradient, is the one that counts it."""
    replicas = chunk.dp_cp_group if getattr(weight, "allreduce", True) else chunk.expt_dp_group
    is_first = chunk.ddp_config.use_distributed_optimizer or replicas.rank() == 0
    return bool(is_first and param_is_not_shared(weight) and param_is_not_tensor_parallel_duplicate(weight))


@torch.no_grad()
def gradient_norms(optimizer: ChainedOptimizer) -> tuple[float, dict[str, float]]:
    """Return the Euclidean norm of the gradient of the whole model, and of each of its parts.

    Every rank calls this, after `optimizer.prepare_grads()`, and gets the same numbers; the first is that of
    Megatron-Core's `get_grad_norm`. They are nan or inf where the gradient is.
    """
    parts = list(_MARKS)
    found: dict[str, list[torch.Tensor]] = {part: [] for part in parts}
    weights = list(_weights(optimizer))
    for weight in weights:
        if weight.part and weight.grad is not None:
            found[weight.part].append(weight.grad)
    sums = torch.zeros(2, len(parts), dtype=torch.float64, device=weights[0].device)  # of squares, and of tensors
    for index, gradients in enumerate(found.values()):
        if gradients:
            sums[0, index] = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
            sums[1, index] = len(gradients)
    dist.all_reduce(sums)
    squares, tensors = sums.tolist()
    norms = {part: math.sqrt(square) for part, square, there in zip(parts, squares, tensors, strict=True) if there}
    return math.sqrt(sum(squares)), norms


def _weights(optimizer: ChainedOptimizer) -> Iterator[Any]:
    """Yield what the optimizer steps."""
    for group in optimizer.param_groups:
        yield from group["params"]


@torch.no_grad()
def apply(optimizer: ChainedOptimizer, settings: PretrainSettings, rate: float, grad_norm: float) -> None:
    """Take one step along the gradients that `optimizer.prepare_grads()` made ready, which are clipped in place.

    Args:
        optimizer: From `build_optimizer`.
        settings: Its weight decay and the largest gradient norm.
        rate: The learning rate of this step.
        grad_norm: The global norm that `gradient_norms` found.
    """
    _set_hyperparameters(optimizer, settings.optimizer, rate)
    scale = settings.optimizer.clip_grad / (grad_norm + 1e-6)  # as Megatron-Core and torch do it
    if scale < 1:
        torch._foreach_mul_([weight.grad for weight in _weights(optimizer) if weight.grad is not None], scale)
    optimizer.step_with_ready_grads()


def _set_hyperparameters(optimizer: ChainedOptimizer, settings: OptimizerSettings, rate: float) -> None:
    """Put those of the settings in place of those that a checkpoint may have brought."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_mult"]
        group["weight_decay"] = settings.weight_decay * group["wd_mult"]
        group["betas"] = (settings.adam_beta1, settings.adam_beta2)
        group["eps"] = settings.adam_eps
