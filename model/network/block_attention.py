"""Causal attention on a CPU as matrix products over blocks of queries.

torch's scaled_dot_product_attention multiplies small tiles there, at half the rate of large products in float32 and at
a quarter in bf16. Here a block of queries, those of all heads that share keys together, meets all keys up to its end in
one product. The attention weights are kept for the backward pass, so memory grows with the square of the length.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

LONGEST = 1024
"""Keys up to which this is worth its memory."""
_QUERIES = 128
"""Of a block: fewer compute less of what causality hides, more make larger products."""


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return what each query sees, `[s, b, heads, d]`.

    Args:
        query: `[s, b, heads, d]`, the last `s` of the positions.
        key: `[s_total, b, groups, d]`.
        value: `[s_total, b, groups, d]`.
        mask: `[b, 1, s, s_total]`, True where a query may attend, which is never after it; None for all before.
        scale: Factor of the scores.
    """
    out: Tensor = _BlockAttention.apply(query, key, value, mask, scale)
    return out


class _BlockAttention(torch.autograd.Function):
    """Attention (Vaswani et al. 2017, equation 1); the backward pass is FlashAttention's (Dao et al. 2022, appendix B).

    Within a block, tensors are `[b * groups, heads / groups * queries, d]`, or have keys for `d`.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        out, kept = torch.empty_like(query), []
        keys, values = _folded(key, key), _folded(value, key)
        for block, end in _blocks(query, key):
            scores = torch.bmm(_folded(query[block], key) * scale, keys[:, :end].transpose(1, 2))
            _hide(scores.view(query.shape[1], -1, block.stop - block.start, end), mask, block)
            weights = torch.softmax(scores, -1, out=scores)  # in place: a row is read before it is written
            _unfold(torch.bmm(weights, values[:, :end]), into=out[block])
            if any(ctx.needs_input_grad):
                kept.append(weights)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, *kept = ctx.saved_tensors
        keys, values = _folded(key, key), _folded(value, key)
        grad_query, grad_keys, grad_values = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
        for (block, end), weights in zip(_blocks(query, key), kept, strict=True):
            grad_out = _folded(grad[block], key)
            grad_values[:, :end].baddbmm_(weights.transpose(1, 2), grad_out)
            grad_scores = torch.bmm(grad_out, values[:, :end].transpose(1, 2))
            grad_scores -= (grad_out * _folded(out[block], key)).sum(-1, keepdim=True)
            grad_scores *= weights
            _unfold(torch.bmm(grad_scores, keys[:, :end]).mul_(ctx.scale), into=grad_query[block])
            grad_keys[:, :end].baddbmm_(grad_scores.transpose(1, 2), _folded(query[block], key), alpha=ctx.scale)
        grad_key, grad_value = torch.empty_like(key), torch.empty_like(value)
        return grad_query, _unfold(grad_keys, into=grad_key), _unfold(grad_values, into=grad_value), None, None


def _blocks(query: Tensor, key: Tensor) -> Iterator[tuple[slice, int]]:
    """Yield blocks of queries, each with the end of the keys that its last may see."""
    for start in range(0, len(query), _QUERIES):
        stop = min(start + _QUERIES, len(query))
        yield slice(start, stop), len(key) - len(query) + stop


def _folded(x: Tensor, key: Tensor) -> Tensor:
    """Return `[s, b, heads, d]` as `[b * groups, heads / groups * s, d]`: heads that share a key in one matrix."""
    s, b, heads, d = x.shape
    groups = key.shape[2]
    return x.view(s, b, groups, heads // groups, d).permute(1, 2, 3, 0, 4).reshape(b * groups, -1, d)


def _unfold(folded: Tensor, into: Tensor) -> Tensor:
    """Undo `_folded` into a tensor `[s, b, heads, d]`."""
    s, b, _heads, d = into.shape
    view = folded.view(b, -1, folded.shape[1] // s, s, d).flatten(1, 2)
    return into.copy_(view.permute(2, 0, 1, 3))


def _hide(scores: Tensor, mask: Tensor | None, block: slice) -> None:
    """Set scores `[b, heads, queries, keys]` of what a block may not see to minus infinity."""
    queries, end = scores.shape[2:]
    if mask is None:
        later = torch.full((queries, queries), -torch.inf, dtype=scores.dtype).triu(1)
        scores[..., end - queries :] += later
    else:
        scores.masked_fill_(~mask[:, :, block, :end], -torch.inf)
