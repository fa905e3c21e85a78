"""Causal attention on a CPU as matrix products over blocks of queries.

torch's scaled_dot_product_attention multiplies small tiles there, at half the rate of large products in float32 and at
a quarter in bf16. Here a block of queries, those of all heads that share keys together, meets all keys that it may see
in one product. The attention weights are kept for the backward pass, so memory grows with the square of the length, or
with the length times the window.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_LONGEST = 1024
"""Length up to which this is worth its memory without a window."""
_QUERIES = 128
"""Of a block: fewer compute less of what causality hides, more make larger products."""


def is_worthwhile(total: int, window: int | None) -> bool:
    """Return whether the weights of attention to `total` keys are few enough to be kept."""
    return total * min(total, total if window is None else window + _QUERIES) <= _LONGEST**2


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, window: int | None = None
) -> Tensor:
    """Return what each query sees, `[s, b, heads, v]`.

    Args:
        query: `[s, b, heads, d]`, the last `s` of the positions.
        key: `[s_total, b, groups, d]`.
        value: `[s_total, b, groups, v]`.
        mask: `[b, 1, s, s_total]`, True where a query may attend, which is never after it; None for all before.
        scale: Factor of the scores.
        window: Keys that a query sees at most: itself and those just before it; None for all.
    """
    out: Tensor = _BlockAttention.apply(query, key, value, mask, scale, window)
    return out


class _BlockAttention(torch.autograd.Function):
    """Attention (Vaswani et al. 2017, equation 1); the backward pass is FlashAttention's (Dao et al. 2022, appendix B).

    Within a block, tensors are `[b * groups, heads / groups * queries, d]`, or have keys for `d`.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, window: int | None
    ) -> Tensor:
        out, kept = query.new_empty(*query.shape[:3], value.shape[3]), []
        keys, values = _folded(key, key), _folded(value, key)
        for block, seen in blocks(len(query), len(key), window, _QUERIES):
            scores = torch.bmm(_folded(query[block], key) * scale, keys[:, seen].transpose(1, 2))
            by_head = scores.view(query.shape[1], -1, block.stop - block.start, scores.shape[-1])
            _hide(by_head, None if mask is None else mask[:, :, block, seen], window)
            weights = torch.softmax(scores, -1, out=scores)  # in place: a row is read before it is written
            _unfold(torch.bmm(weights, values[:, seen]), into=out[block])
            if any(ctx.needs_input_grad):
                kept.append(weights)
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.scale, ctx.window = scale, window
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        query, key, value, out, *kept = ctx.saved_tensors
        keys, values = _folded(key, key), _folded(value, key)
        grad_query, grad_keys, grad_values = torch.empty_like(query), torch.zeros_like(keys), torch.zeros_like(values)
        for (block, seen), weights in zip(blocks(len(query), len(key), ctx.window, _QUERIES), kept, strict=True):
            grad_out = _folded(grad[block], key)
            grad_values[:, seen].baddbmm_(weights.transpose(1, 2), grad_out)
            grad_scores = torch.bmm(grad_out, values[:, seen].transpose(1, 2))
            grad_scores -= (grad_out * _folded(out[block], key)).sum(-1, keepdim=True)
            grad_scores *= weights
            _unfold(torch.bmm(grad_scores, keys[:, seen]).mul_(ctx.scale), into=grad_query[block])
            grad_keys[:, seen].baddbmm_(grad_scores.transpose(1, 2), _folded(query[block], key), alpha=ctx.scale)
        grad_key, grad_value = torch.empty_like(key), torch.empty_like(value)
        return grad_query, _unfold(grad_keys, into=grad_key), _unfold(grad_values, into=grad_value), None, None, None


def blocks(length: int, total: int, window: int | None, size: int) -> Iterator[tuple[slice, slice]]:
    """Yield blocks of the last `length` of `total` positions, each with the keys that one of its queries may see.

    Args:
        length: Queries.
        total: Keys.
        window: Keys that a query sees at most.
        size: Queries of a block.
    """
    for start in range(0, length, size):
        stop = min(start + size, length)
        first = 0 if window is None else max(0, total - length + start - window + 1)
        yield slice(start, stop), slice(first, total - length + stop)


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


def _hide(scores: Tensor, mask: Tensor | None, window: int | None) -> None:
    """Set scores `[b, heads, queries, keys]` of what may not be seen to minus infinity; both end at one position."""
    queries, keys = scores.shape[2:]
    if mask is None:
        scores[..., keys - queries :] += torch.full((queries, queries), -torch.inf, dtype=scores.dtype).triu(1)
    else:
        scores.masked_fill_(~mask, -torch.inf)
    too_early = 0 if window is None else keys - window  # for the last query
    if too_early > 0:
        earlier = torch.full((queries, too_early), -torch.inf, dtype=scores.dtype).tril(too_early - queries)
        scores[..., :too_early] += earlier
