"""Scores of text under any layout: how batches of any shapes are shared by replicas and fed to a pipeline."""

import itertools
from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from model import parallel
from model.data.batches import Batch
from model.network import zigzag

Scores = tuple[Tensor, Tensor, Tensor]
"""Labels, their losses in nats, and whether each is the likeliest token, all `[b, s]`."""


def rounds(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Yield the batches in lists of `size`; the last may be shorter."""
    rest = iter(batches)
    while group := list(itertools.islice(rest, size)):
        yield group


def evened(group: list[Batch], size: int, multiple: int) -> list[Batch]:
    """Return `size` batches of one shape, as a pipeline needs: rows and tokens are added that no other token sees.

    Args:
        group: At most `size` batches.
        size: Batches to return; the last is repeated.
        multiple: Of which the length must be one.
    """
    rows = max(batch.tokens.shape[0] for batch in group)
    longest = max(batch.tokens.shape[1] for batch in group)
    length = -(-longest // multiple) * multiple
    even = [_padded(batch, rows, length) for batch in group]
    return even + even[-1:] * (size - len(even))


def _padded(batch: Batch, rows: int, length: int) -> Batch:
    b, s = batch.tokens.shape
    extra = (0, length - s, 0, rows - b)
    tokens, labels, positions = (functional.pad(x, extra) for x in (batch.tokens, batch.labels, batch.positions))
    mask = batch.attention_mask
    if mask is not None:
        mask = functional.pad(mask, (0, length - s))
        # A row that may attend to nothing would be nan, and its keys with it.
        mask = functional.pad(mask, (0, 0, 0, length - s, 0, 0, 0, rows - b), value=True)
    return Batch(tokens, labels, positions, mask)


def shared(own: list[Tensor], evened_shape: tuple[int, int], size: int, device: torch.device) -> Tensor:
    """Return on every rank the scores of a round, `[batches, 2, b, s]`: losses and whether they are greedy.

    Args:
        own: `[2, b, s / context-parallel size]` float32 of each batch of this replica; empty before the last stage.
        evened_shape: `b` and `s`.
        size: Batches of this replica.
        device: This process's.
    """
    b, s = evened_shape
    part = torch.stack(own) if own else torch.zeros(size, 2, b, s // parallel.context_parallel_size(), device=device)
    whole = zigzag.join(_gathered(part, parallel.context_parallel_group()), dim=3)
    return parallel.from_last_stage(torch.cat(_gathered(whole, parallel.batch_parallel_group())))


def _gathered(part: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    parts = [torch.empty_like(part) for _ in range(group.size())]
    dist.all_gather(parts, part.contiguous(), group=group)
    return parts


def unpadded(group: list[Batch], scores: Tensor) -> Iterator[Scores]:
    """Yield the scores of each batch without what `evened` added."""
    for batch, (losses, greedy) in zip(group, scores, strict=False):
        b, s = batch.labels.shape
        yield batch.labels, losses[:b, :s], greedy[:b, :s].bool()
