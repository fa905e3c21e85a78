"""The optimizer: AdamW or Muon inside Megatron-Core's, the norms of its gradients, and one update."""

import contextlib
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
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer  # noqa: E402
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate  # noqa: E402
from megatron.core.transformer.module import param_is_not_shared  # noqa: E402

from model import parallel  # noqa: E402
from model.optim.muon import Muon, stacked_rows  # noqa: E402
from model.optim.parts import PARTS, held, part  # noqa: E402
from model.settings import OptimizerSettings, PretrainSettings  # noqa: E402

_MUON_PARTS = ("attention", "experts", "mlp")


def build_optimizer(settings: PretrainSettings, chunks: list[DistributedDataParallel]) -> ChainedOptimizer:
    """Return the optimizer of this rank's weights, its state made, so that it can be saved before the first step.

    Args:
        settings: Whose `optimizer` says which.
        chunks: This rank's runs of layers, whose gradients the data-parallel wrapper reduces.
    """
    config = _config(settings, chunks[0])
    names = {weight: name for chunk in chunks for name, weight in chunk.named_parameters()}
    muon = list(_muon(settings.optimizer, config, chunks[0], names)) if settings.optimizer.kind == "muon" else []
    with _frozen([weight for of_muon in muon for weight, _ in held(of_muon)]):
        overrides = get_standard_config_overrides(config)
        adamw = get_megatron_optimizer(config, chunks, overrides, use_gloo_process_groups=False)
    optimizer = ChainedOptimizer([*muon, *adamw.chained_optimizers])
    for chained in optimizer.chained_optimizers:
        for weight, stepped in held(chained):
            stepped.part = part(names[weight]) if _counts(weight, chunks[0]) else None
        chained.init_state_fn(chained.optimizer, config)
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


def _muon(
    settings: OptimizerSettings, config: OptimizerConfig, chunk: DistributedDataParallel, names: dict[Any, str]
) -> Iterator[Any]:
    """Yield Megatron-Core's optimizers around Muon: of the layers' matrices, and of their experts' if there are any.

    Megatron-Core keeps experts apart. Every pipeline stage has both, so that a checkpoint is the same on all.
    """
    for are_experts in (False, True) if chunk.config.num_moe_experts else (False,):
        group = {
            "params": [w for w, name in names.items() if _is_matrix(w, name) and _is_expert(w) == are_experts],
            "wd_mult": 1.0,  # this and what follows is what Megatron-Core knows a group by
            "lr_mult": 1.0,
            "is_expert_parallel": are_experts,
            "is_decoupled_lr": False,
        }
        muon = Muon(
            [group],
            None if are_experts else parallel.tensor_parallel_group(),
            parallel.expert_data_parallel_group() if are_experts else parallel.data_parallel_group(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=settings.muon_momentum,
        )
        if config.bf16:
            optimizer = Float16OptimizerWithFloat16Params(muon, config, None, Muon.init_state)
        else:
            optimizer = FP32Optimizer(muon, config, Muon.init_state)
        for weight, stepped in held(optimizer):
            stepped.stacked_rows = stacked_rows(names[weight], weight, chunk.config)
        yield optimizer


def _is_matrix(weight: torch.Tensor, name: str) -> bool:
    return weight.dim() == 2 and part(name) in _MUON_PARTS


def _is_expert(weight: torch.Tensor) -> bool:
    return not getattr(weight, "allreduce", True)  # Megatron-Core's mark


@contextlib.contextmanager
def _frozen(weights: list[torch.nn.Parameter]) -> Iterator[None]:
    """Hide weights from Megatron-Core, which steps all that require a gradient."""
    for weight in weights:
        weight.requires_grad = False
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad = True


def _counts(weight: Any, chunk: DistributedDataParallel) -> bool:
    """Return whether this rank, of those with the same gradient, is the one that counts it."""
    replicas = chunk.expt_dp_group if _is_expert(weight) else chunk.dp_cp_group
    is_first = chunk.ddp_config.use_distributed_optimizer or replicas.rank() == 0
    return bool(is_first and param_is_not_shared(weight) and param_is_not_tensor_parallel_duplicate(weight))


@torch.no_grad()
def gradient_norms(optimizer: ChainedOptimizer) -> tuple[float, dict[str, float]]:
    """Return the Euclidean norm of the gradient of the whole model, and of each of its parts (`model.optim.parts`).

    Every rank calls this, after `optimizer.prepare_grads()`, and gets the same numbers; the first is that of
    Megatron-Core's `get_grad_norm`. They are nan or inf where the gradient is.
    """
    found: dict[str, list[torch.Tensor]] = {part: [] for part in PARTS}
    for weight in _stepped(optimizer):
        if weight.part and weight.grad is not None:
            found[weight.part].append(weight.grad)
    device = optimizer.get_loss_scale().device
    sums = torch.zeros(2, len(found), dtype=torch.float64, device=device)  # of squares, and of tensors
    for index, gradients in enumerate(found.values()):
        if gradients:
            sums[0, index] = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
            sums[1, index] = len(gradients)
    dist.all_reduce(sums)
    squares, tensors = sums.tolist()
    norms = {part: math.sqrt(square) for part, square, there in zip(PARTS, squares, tensors, strict=True) if there}
    return math.sqrt(sum(squares)), norms


def _stepped(optimizer: ChainedOptimizer) -> Iterator[Any]:
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
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_mult"]
        group["weight_decay"] = settings.optimizer.weight_decay * group["wd_mult"]
    scale = settings.optimizer.clip_grad / (grad_norm + 1e-6)  # as Megatron-Core and torch do it
    if scale < 1:
        torch._foreach_mul_([weight.grad for weight in _stepped(optimizer) if weight.grad is not None], scale)
    optimizer.step_with_ready_grads()
