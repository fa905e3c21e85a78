"""The output layer and the cross entropy in one, so that the logits of a batch are never all in memory.

The logits of some tokens are made, turned into losses and at once into gradients of the hidden states and of the table,
and dropped (the idea of Hsu et al. 2024, Liger Kernel). On a CPU the pieces also stay in its cache: at 4,096 ids the
whole takes 70 % of the time that separate steps take.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.tensor_parallel import (  # noqa: E402 - after install
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)

from model import parallel  # noqa: E402
from model.network import gemm  # noqa: E402

LOGITS = {"cpu": 2**22, "cuda": 2**28}
"""Logits in memory at a time, by device: 16 MiB and 1 GiB."""
_IMPOSSIBLE = -1e30


def output_losses(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    vocab_size: int,
    z_loss: float = 0.0,
    sequence_parallel: bool = False,
    labelled: Tensor | None = None,
) -> Tensor:
    """Return cross entropy in nats and the squared log-denominator of the softmax, `[2, b, s]` float32.

    Args:
        hidden: `[s, b, h]`, of which a tensor-parallel rank holds a part of `s` under sequence parallelism.
        weight: This rank's rows of the output table, `[v / tensor-parallel size, h]`.
        labels: `[b, s]`.
        vocab_size: Real ids; the rows after them are padding and take no share of the softmax.
        z_loss: Weight of the second output, relative to the first, in what will be differentiated. Gradients are made
            before the loss is known, so it must be a multiple of sum(first + z_loss * second); no other is accepted.
        sequence_parallel: Whether `hidden` is a part.
        labelled: `[b, s]`, True for the tokens that have a label; the losses of the others are 0. All have if None.
    """
    if sequence_parallel:
        hidden = gather_from_sequence_parallel_region(hidden)
    else:
        hidden = copy_to_tensor_model_parallel_region(hidden)
    tokens, targets = hidden.flatten(0, 1), labels.t().flatten()
    losses: Tensor
    if labelled is None:
        losses = _OutputLosses.apply(tokens, weight, targets, vocab_size, z_loss)
    else:
        some = labelled.t().flatten().nonzero().squeeze(1)
        of_some = _OutputLosses.apply(tokens[some], weight, targets[some], vocab_size, z_loss)
        losses = of_some.new_zeros(2, len(tokens)).index_copy(1, some, of_some)
    return losses.view(2, *hidden.shape[:2]).transpose(1, 2).contiguous()


@torch.no_grad()
def token_scores(logits: Tensor, labels: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Return losses in nats, float32, and whether the label is the likeliest token, both `[b, s]`.

    Args:
        logits: `[b, s, v / tensor-parallel size]`.
        labels: `[b, s]`.
        vocab_size: As in `output_losses`.
    """
    shard = _Shard(logits.shape[-1], vocab_size)
    logits = shard.without_padding(logits[..., : shard.rows].float())
    own, mine = shard.columns(labels)
    label_logits = logits.gather(-1, own.unsqueeze(-1)).squeeze(-1).where(mine, _IMPOSSIBLE)
    by_rank = _from_all_ranks(torch.stack((logits.logsumexp(-1), logits.amax(-1), label_logits)))
    denominator, (highest, label) = by_rank[:, 0].logsumexp(0), by_rank[:, 1:].amax(0)
    return denominator - label, label == highest


class _Shard:
    """A tensor-parallel rank's rows of the table: `rows` are real, or one of padding where no real one is."""

    def __init__(self, size: int, vocab_size: int) -> None:
        self._first = parallel.tensor_parallel_rank() * size
        self._empty = vocab_size <= self._first
        self.rows = 1 if self._empty else min(size, vocab_size - self._first)

    def without_padding(self, logits: Tensor) -> Tensor:
        return torch.full_like(logits, _IMPOSSIBLE) if self._empty else logits

    def columns(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return labels as columns of this shard, and which are; the others' are 0."""
        own = labels - self._first
        mine = (own >= 0) & (own < self.rows)
        return own.where(mine, 0), mine


class _OutputLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, vocab_size: int, z_loss: float) -> Tensor:
        shard = _Shard(len(weight), vocab_size)
        table = weight[: shard.rows]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        losses = hidden.new_empty(2, len(labels), dtype=wide)
        differentiated = any(ctx.needs_input_grad)
        grad_hidden, grad_table = torch.empty_like(hidden), None
        for some in _chunks(len(labels), shard.rows, hidden.device.type):
            logits = shard.without_padding(gemm.product(hidden[some], table).to(wide))
            losses[:, some] = _losses(logits, *shard.columns(labels[some]), z_loss)  # and logits are gradients now
            if differentiated:
                grad_logits = logits.to(hidden.dtype)
                grad_hidden[some] = gemm.product(grad_logits, table.t())
                part = gemm.weight_gradient(grad_logits, hidden[some]).to(wide)
                grad_table = part if grad_table is None else grad_table.add_(part)
        if differentiated:
            ctx.save_for_backward(grad_hidden, grad_table)
            ctx.rows, ctx.z_loss = len(weight), z_loss
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_hidden, grad_table = ctx.saved_tensors
        scale = grad[0, 0]
        expected = torch.stack((scale, scale * ctx.z_loss)).unsqueeze(1)
        as_announced = torch.isclose(grad, expected, rtol=1e-4, atol=0).all()
        torch._assert_async(as_announced, "not a multiple of sum(cross entropy + z_loss * squared log-denominator)")
        grad_weight = grad_hidden.new_zeros(ctx.rows, grad_hidden.shape[1])
        torch.mul(grad_table, scale, out=grad_weight[: len(grad_table)])
        return grad_hidden * scale, grad_weight, None, None, None


def _chunks(tokens: int, rows: int, device: str) -> Iterator[slice]:
    """Yield equal stretches of the tokens whose logits may be in memory together."""
    count = -(-tokens * rows // LOGITS[device])
    size = -(-tokens // count)
    for start in range(0, tokens, size):
        yield slice(start, start + size)


def _losses(logits: Tensor, own: Tensor, mine: Tensor, z_loss: float) -> Tensor:
    """Return both losses of some tokens, `[2, t]`; overwrite their logits with the gradient.

    Args:
        logits: `[t, rows]` of this rank.
        own: Their labels as columns, `[t]`.
        mine: Which labels are this rank's, `[t]`.
        z_loss: Weight of the second loss in what the gradient is of.
    """
    index = torch.arange(len(logits), device=logits.device), own
    label_logits = logits[index].where(mine, 0.0)
    highest = logits.amax(-1)
    softmax = torch.softmax(logits, -1, out=logits)  # in place: a row is read before it is written
    own_denominator = highest - softmax.amax(-1).log()
    by_rank = _from_all_ranks(torch.stack((own_denominator, label_logits)))
    denominator, label_logits = by_rank[:, 0].logsumexp(0), by_rank[:, 1].sum(0)
    if len(by_rank) > 1 or z_loss:
        softmax *= ((own_denominator - denominator).exp() * (1 + 2 * z_loss * denominator)).unsqueeze(-1)
    softmax[index] -= mine.to(softmax.dtype)
    return torch.stack((denominator - label_logits, denominator.square()))


def _from_all_ranks(values: Tensor) -> Tensor:
    """Return the values of all tensor-parallel ranks, along a new first dimension."""
    group = parallel.tensor_parallel_group()
    if group.size() == 1:
        return values.unsqueeze(0)
    gathered = values.new_empty(group.size() * len(values), *values.shape[1:])
    dist.all_gather_single(gathered, values, group=group)
    return gathered.view(group.size(), *values.shape)
