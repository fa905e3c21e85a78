"""Muon for the matrices that Megatron-Core fuses and tensor parallelism splits."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import _muon

COEFFICIENTS = (_muon.DEFAULT_A, _muon.DEFAULT_B, _muon.DEFAULT_C)
"""Of the Newton-Schulz iteration, as torch has them."""


def stacked_rows(name: str, weight: Tensor, config: Any) -> tuple[int, ...]:
    """Return the heights of the matrices that Megatron-Core stacks in a weight.

    Args:
        name: Its name in the model.
        weight: This rank's part of it, `[rows, columns]`.
        config: Megatron-Core's configuration of the model.

    Returns:
        Of each matrix the rows in one of the equal blocks that the weight is made of. `linear_qkv` has a block for each
        query group: its queries, key and value. `linear_fc1` has one for each rank: its gates and its inputs.
    """
    if "linear_qkv" in name:
        queries = config.num_attention_heads // config.num_query_groups * config.kv_channels
        return queries, config.kv_channels, config.kv_channels
    if "linear_fc1" in name and config.gated_linear_unit:
        return weight.shape[0] // 2, weight.shape[0] // 2
    return (weight.shape[0],)


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon (Jordan et al. 2024): momentum, made orthogonal by Newton-Schulz steps in bf16.

    Every matrix is made orthogonal whole and by itself: its shards are gathered from the tensor-parallel ranks, which
    all compute the same, and what is stacked in one weight (see `stacked_rows`) is taken apart. The rate of a matrix
    is torch's `match_rms_adamw` (Liu et al. 2025, "Muon is scalable for LLM training", equation 4): updates are as
    large as AdamW's, so that one learning rate and one weight decay serve both.

    A weight has Megatron-Core's marks `tensor_model_parallel` and `partition_dim`, and `stacked_rows`.

    Args:
        groups: Parameter groups.
        shared_by: Processes that share each matrix; None for experts, which are whole.
        lr: Learning rate, as AdamW has it.
        weight_decay: Decoupled, as AdamW has it.
        momentum: Decay of the momentum (Nesterov).
    """

    def __init__(
        self, groups: Any, shared_by: dist.ProcessGroup | None, *, lr: float, weight_decay: float, momentum: float
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._shared_by = shared_by

    def init_state(self, _config: Any = None) -> None:
        """Make the momentum of every weight, as Megatron-Core asks for before it loads one."""
        for settings in self.param_groups:
            for weight in settings["params"]:
                if not self.state[weight]:
                    self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        assert closure is None, "Megatron-Core passes none"
        self.init_state()
        for settings in self.param_groups:
            for weight in settings["params"]:
                if weight.grad is not None:
                    self._update(weight, settings)

    def _update(self, weight: Any, settings: dict[str, Any]) -> None:
        momentum = self.state[weight]["momentum_buffer"]
        momentum.lerp_(weight.grad, 1 - settings["momentum"])
        update = weight.grad.lerp(momentum, settings["momentum"]).bfloat16()  # the iteration takes no more
        weight.mul_(1 - settings["lr"] * settings["weight_decay"])
        group = self._shared_by if getattr(weight, "tensor_model_parallel", False) else None
        whole = _gathered(update, weight.partition_dim, group) if group else update
        for own, matrix in zip(*(_unstack(stack, weight.stacked_rows) for stack in (weight, whole)), strict=True):
            stacked = matrix.flatten(0, 1)
            direction = _muon._zeropower_via_newtonschulz(stacked, COEFFICIENTS, _muon.DEFAULT_NS_STEPS, _muon.EPS)
            direction = direction.view_as(matrix)
            rate = _muon._adjust_lr(settings["lr"], "match_rms_adamw", stacked.shape)
            own.add_(_own(direction, weight.partition_dim, group) if group else direction, alpha=-rate)


def _gathered(shard: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Return the weight-shaped tensor of which every process of a group has a shard."""
    shards = [torch.empty_like(shard) for _ in range(group.size())]
    dist.all_gather(shards, shard, group=group)
    return torch.cat(shards, dim=dim)


def _own(matrix: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
    """Return this process's part of a matrix `[blocks, rows, columns]`: its blocks or, of dimension 1, its columns."""
    return matrix.chunk(group.size(), dim=2 * dim)[group.rank()]


def _unstack(weight: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return views `[blocks, rows, columns]` of the matrices that are stacked in a weight, block by block."""
    matrices: tuple[Tensor, ...] = weight.unflatten(0, (-1, sum(rows))).split(rows, dim=1)
    return matrices
