"""Which experts a token visits, where Megatron-Core's way is not that of `transformers`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.transformer.moe.router import TopKRouter  # noqa: E402 - after install

Choice = tuple[Tensor, Tensor]
"""Scores of the chosen experts, and their indices, both `[tokens, topk]`."""


class GroupLimitedRouter(TopKRouter):
    """Megatron-Core's router, with experts from the best groups alone (Liu et al. 2024, DeepSeek-V2, section 2.2.2).

    Megatron-Core scores a group by the sum of its best topk / group_topk experts. DeepSeek-V2 takes its best one,
    DeepSeek-V3 its best two.

    Args:
        best: Of how many experts the scores are summed for that of a group.
        kwargs: TopKRouter's.
    """

    def __init__(self, best: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.router_replay = _GroupLimit(best)  # which Megatron-Core asks for the choice, to repeat a former one


class _GroupLimit:
    def __init__(self, best: int) -> None:
        self._best = best

    def get_replay_topk(
        self, scores: Tensor, topk: int, num_groups: int, group_topk: int, _default: Callable[..., Choice]
    ) -> Choice:
        """Return the choice among all experts' scores `[tokens, experts]`, in the signature of RouterReplay."""
        groups = scores.unflatten(-1, (num_groups, -1))
        best = groups.topk(self._best, dim=-1).values.sum(-1).topk(group_topk, dim=-1).indices
        is_open = torch.zeros(groups.shape[:-1], dtype=torch.bool, device=scores.device).scatter_(-1, best, True)
        chosen = groups.masked_fill(~is_open.unsqueeze(-1), -torch.inf).flatten(-2).topk(topk, dim=-1)
        return chosen.values, chosen.indices
