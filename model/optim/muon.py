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
        query group: its queries, key and value. `linear_fc1` has one for each rank: its gates and its inputs. Others
        are told by the module that has the weight, as `stacked_rows` of it.
    """
    if hasattr(weight, "stacked_rows"):
        rows: tuple[int, ...] = weight.stacked_rows
        return rows
    if "linear_qkv" in name:
        queries = config.num_attention_heads // config.num_query_groups * config.kv_channels
        return queries, config.kv_channels, config.kv_channels
    if "linear_fc1" in name and config.gated_linear_unit:
        return weight.shape[0] // 2, weight.shape[0] // 2
    return (weight.shape[0],)


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon (Jordan et al. 2024): momentum, made orthogonal by Newton-Schulz steps in bf16.

    Every matrix is made orthogonal whole and by itself: its shards are gathered from the tensor-parallel ranks, and
    what is stacked in one weight (see `stacked_rows`) is taken apart. Replicas share this work and broadcast its
    results. The rate of a matrix is torch's `match_rms_adamw` (Liu et al. 2025, "Muon is scalable for LLM training",
    equation 4): updates are as large as AdamW's, so that one learning rate and one weight decay serve both.

    A weight has Megatron-Core's marks `tensor_model_parallel` and `partition_dim`, and `stacked_rows`.

    Args:
        groups: Parameter groups.
        shards: Processes that share each matrix; None for experts, which are whole.
        replicas: Processes that hold the same weights and gradients.
        lr: Learning rate, as AdamW has it.
        weight_decay: Decoupled, as AdamW has it.
        momentum: Decay of the momentum (Nesterov).
    """

    def __init__(
        self,
        groups: Any,
        shards: dist.ProcessGroup | None,
        replicas: dist.ProcessGroup,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
    ) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._shards = shards
        self._replicas = replicas

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
            weights = [weight for weight in settings["params"] if weight.grad is not None]
            owners = _shared_out(weights, self._replicas.size())
            updates = [self._advance(weight, settings["momentum"]) for weight in weights]
            directions = [
                self._direction(weight, update) if owner == self._replicas.rank() else update
                for weight, update, owner in zip(weights, updates, owners, strict=True)
            ]
            for weight, direction, owner in zip(weights, directions, owners, strict=True):
                if self._replicas.size() > 1:
                    dist.broadcast(direction, group_src=owner, group=self._replicas)
                self._apply(weight, direction, settings)

    def _advance(self, weight: Any, momentum: float) -> Tensor:
        """Advance a weight's momentum, and return what is to be made orthogonal, in the bf16 of the iteration."""
        buffer = self.state[weight]["momentum_buffer"]
        buffer.lerp_(weight.grad, 1 - momentum)
        update: Tensor = weight.grad.lerp(buffer, momentum).bfloat16()
        return update

    def _direction(self, weight: Any, update: Tensor) -> Tensor:
        """Return the update with each of its matrices made orthogonal, of which this rank may have a shard."""
        shards = self._shards_of(weight)
        if shards is None:
            return _orthogonal(update, weight.stacked_rows)
        pieces = [torch.empty_like(update) for _ in range(shards.size())]
        dist.all_gather(pieces, update, group=shards)
        whole = _orthogonal(torch.cat(pieces, dim=weight.partition_dim), weight.stacked_rows)
        return whole.chunk(shards.size(), dim=weight.partition_dim)[shards.rank()].contiguous()

    def _apply(self, weight: Any, direction: Tensor, settings: dict[str, Any]) -> None:
        weight.mul_(1 - settings["lr"] * settings["weight_decay"])
        shards = self._shards_of(weight)
        for matrix, change in zip(*(_unstacked(x, weight.stacked_rows) for x in (weight, direction)), strict=True):
            whole = [matrix.shape[0] * matrix.shape[1], matrix.shape[2]]
            if shards:
                whole[weight.partition_dim] *= shards.size()
            rate = _muon._adjust_lr(settings["lr"], "match_rms_adamw", torch.Size(whole))
            matrix.add_(change, alpha=-rate)

    def _shards_of(self, weight: Any) -> dist.ProcessGroup | None:
        return self._shards if getattr(weight, "tensor_model_parallel", False) else None


def _shared_out(weights: list[Tensor], size: int) -> list[int]:
    """Return for each weight which of `size` replicas makes it orthogonal: the one with the least work so far."""
    work = [0] * size
    owners = []
    for weight in weights:
        owners.append(work.index(min(work)))
        work[owners[-1]] += weight.numel() * min(weight.shape)
    return owners


def _orthogonal(stack: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Return a weight whose matrices are those of `stack`, each made orthogonal."""
    result = torch.empty_like(stack)
    for matrix, direction in zip(_unstacked(stack, rows), _unstacked(result, rows), strict=True):
        found = _muon._zeropower_via_newtonschulz(matrix.flatten(0, 1), COEFFICIENTS, _muon.DEFAULT_NS_STEPS, _muon.EPS)
        direction.copy_(found.view_as(direction))
    return result


def _unstacked(stack: Tensor, rows: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Return views `[blocks, rows, columns]` of the matrices that are stacked in a weight, block by block."""
    matrices: tuple[Tensor, ...] = stack.unflatten(0, (-1, sum(rows))).split(rows, dim=1)
    return matrices
