"""How context parallelism cuts a sequence: into twice as many chunks as processes; each takes one from both ends.

With causal attention every process then has the same work (Llama 3, Dubey et al. 2024, section 3.3.2).
"""

import torch
from torch import Tensor


def chunks_of(rank: int, size: int) -> tuple[int, int]:
    """Return which of the `2 * size` chunks of a sequence are a process's."""
    return rank, 2 * size - 1 - rank


def cut(x: Tensor, dim: int, rank: int, size: int) -> Tensor:
    """Return the process's own chunks of a whole sequence along `dim`."""
    if size == 1:
        return x
    chunks = x.chunk(2 * size, dim)
    return torch.cat([chunks[index] for index in chunks_of(rank, size)], dim)


def join(parts: list[Tensor], dim: int) -> Tensor:
    """Return the whole sequence along `dim` from the own chunks of all processes, in the order of their ranks."""
    if len(parts) == 1:
        return parts[0]
    first, second = zip(*(part.chunk(2, dim) for part in parts), strict=True)
    return torch.cat((*first, *reversed(second)), dim)
