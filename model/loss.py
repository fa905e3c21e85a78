"""Cross entropy over a vocabulary that tensor parallelism splits."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model import parallel


def token_losses(logits: Tensor, labels: Tensor, vocab_size: int) -> Tensor:
    """Return cross entropy in nats and the squared log-denominator of the softmax, `[2, s, b]` float32.

    Args:
        logits: `[s, b, v / tensor-parallel size]`.
        labels: `[s, b]`.
        vocab_size: Real ids; the rows after them are padding and take no share of the softmax.
    """
    out: Tensor = _TokenLosses.apply(logits, labels, vocab_size)
    return out


def token_scores(logits: Tensor, labels: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return losses in nats, float32, and whether the label is the likeliest token, both `[b, s]`.

    Args:
        logits: `[b, s, v / tensor-parallel size]`.
        labels: `[b, s]`.
        vocab_size: As in `token_losses`.
    """
    logits = _without_padding(logits.float(), vocab_size)
    own, mine = _own_labels(labels, logits.shape[-1])
    highest = _reduce(logits.amax(dim=-1), dist.ReduceOp.MAX)
    total = _reduce((logits - highest.unsqueeze(-1)).exp().sum(dim=-1))
    label_logits = _reduce(logits.gather(-1, own.unsqueeze(-1)).squeeze(-1).where(mine, 0.0))
    return highest + total.log() - label_logits, label_logits == highest


class _TokenLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, vocab_size: int) -> Tensor:
        logits = _without_padding(logits.float(), vocab_size)
        own, mine = _own_labels(labels, logits.shape[-1])
        highest = _reduce(logits.amax(dim=-1), dist.ReduceOp.MAX)
        softmax = (logits - highest.unsqueeze(-1)).exp()
        total = _reduce(softmax.sum(dim=-1))
        softmax /= total.unsqueeze(-1)
        denominator = highest + total.log()
        label_logits = _reduce(logits.gather(-1, own.unsqueeze(-1)).squeeze(-1).where(mine, 0.0))
        ctx.save_for_backward(softmax, denominator, own, mine)
        return torch.stack((denominator - label_logits, denominator.square()))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        softmax, denominator, own, mine = ctx.saved_tensors
        grad_entropy, grad_square = grad
        grad_logits = softmax * (grad_entropy + 2 * denominator * grad_square).unsqueeze(-1)
        grad_logits.scatter_add_(-1, own.unsqueeze(-1), -grad_entropy.where(mine, 0.0).unsqueeze(-1))
        return grad_logits, None, None


def _without_padding(logits: Tensor, vocab_size: int) -> Tensor:
    first = parallel.tensor_parallel_rank() * logits.shape[-1]
    ids = torch.arange(first, first + logits.shape[-1], device=logits.device)
    return logits.masked_fill(ids >= vocab_size, -torch.inf)


def _own_labels(labels: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return labels as columns of this rank, and which of them are its own; those of others are 0."""
    own = labels - parallel.tensor_parallel_rank() * size
    mine = (own >= 0) & (own < size)
    return own.where(mine, 0), mine


def _reduce(values: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
    dist.all_reduce(values, op=op, group=parallel.tensor_parallel_group())
    return values
