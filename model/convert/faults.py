"""What is wrong with tensors, said by name."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from stages.errors import UserError

_NAMED = 5


def differences(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return how tensors, of which shapes are given, differ from what they should be, for people."""
    both = sorted(found.keys() & wanted.keys())
    return [
        *(f"{name} is missing" for name in sorted(wanted.keys() - found.keys())),
        *(f"{name} is left over" for name in sorted(found.keys() - wanted.keys())),
        *(f"{name} is {found[name]}, not {wanted[name]}" for name in both if found[name] != wanted[name]),
    ]


def listed(faults: Iterable[str]) -> str:
    """Return the first faults, and how many more there are."""
    every = list(faults)
    more = f"; and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return "; ".join(every[:_NAMED]) + more


def require_finite(tensor: Tensor, name: str) -> None:
    """Refuse a tensor with a NaN or an infinity.

    A sum of finite numbers may overflow, but one with others is never finite: it spares most tensors a second look.
    """
    if not tensor.sum(dtype=torch.float32).isfinite() and not (finite := tensor.isfinite()).all():
        raise UserError(f"{name} has {int((~finite).sum())} of {tensor.numel()} values that are NaN or infinite")
