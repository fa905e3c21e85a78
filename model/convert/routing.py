"""One choice of experts for two models that are compared.

Which experts a token visits jumps: where two are level but for rounding, two models that are one would part. So the
choice of one is carried over to the other, and judged by itself.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.network.decoder import Decoder

LEVEL = 1e-3
"""Difference of scores up to which experts are taken for level. Beyond it a router is wrong, and is left to show it."""


@contextlib.contextmanager
def one_choice_of_experts(megatron: Decoder, exported: PreTrainedModel) -> Iterator[list[float]]:
    """Have the exported model send tokens to the experts that the trained one chose just before, among level ones.

    Yields:
        How far, in the exported routers' scores, that choice is from their own; grows as the models run.
    """
    shortfalls = [0.0]
    inner: Any = exported.base_model
    handles = []
    for ours, theirs in zip(megatron.decoder.layers, inner.layers, strict=True):
        if hasattr(ours.mlp, "router"):
            noted: list[Tensor] = []
            handles.append(ours.mlp.router.register_forward_hook(partial(_note, noted)))
            handles.append(theirs.mlp.gate.register_forward_hook(partial(_take, noted, shortfalls)))
    try:
        yield shortfalls
    finally:
        for handle in handles:
            handle.remove()


def _note(noted: list[Tensor], _router: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    """Note Megatron-Core's weights and map of tokens to experts, `[s * b, experts]`, as `[b * s, experts]`."""
    s, b, _ = inputs[0].shape
    noted[:] = [x.unflatten(0, (s, b)).transpose(0, 1).flatten(0, 1) for x in output]


def _take(
    noted: list[Tensor], shortfalls: list[float], router: Any, _inputs: Any, output: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, weights and indices of the experts of each token; where the noted choice is as good, that one."""
    logits, weights, indices = output
    their_weights, choice = noted
    short = shortfall(router, logits, choice)
    shortfalls[0] = max(shortfalls[0], short.max().item())
    other = (torch.zeros_like(choice).scatter(-1, indices, True) != choice).any(-1) & (short <= LEVEL)
    their_indices = choice.int().topk(indices.shape[-1]).indices
    their_weights = their_weights.gather(-1, their_indices).to(weights.dtype)
    return logits, their_weights.where(other[:, None], weights), their_indices.where(other[:, None], indices)


def shortfall(router: Any, logits: Tensor, choice: Tensor) -> Tensor:
    """Return how far a choice of experts is from a router's own, 0 or less if it is that.

    Args:
        router: One of `transformers`.
        logits: Its logits `[tokens, experts]`.
        choice: Which experts the tokens visit, `[tokens, experts]`.

    Returns:
        For each token, `[tokens]`, what the worst expert, or group, that was chosen is below the best that was not.
    """
    bias = getattr(router, "e_score_correction_bias", None)
    scores = logits.float() if bias is None else logits.float().sigmoid() + bias
    if getattr(router, "topk_method", None) == "greedy" or (getattr(router, "num_group", None) or 1) == 1:
        return _gap(scores, choice)
    by_group = scores.unflatten(-1, (router.num_group, -1))
    of_group = by_group.topk(1 if bias is None else 2).values.sum(-1)
    visited = choice.unflatten(-1, (router.num_group, -1)).any(-1)
    best = of_group.masked_fill(visited, torch.inf).topk(router.topk_group).indices
    is_open = torch.zeros_like(visited).scatter(-1, best, True)
    among_open = by_group.masked_fill(~is_open.unsqueeze(-1), -torch.inf).flatten(-2)
    return torch.maximum(_gap(of_group, is_open), _gap(among_open, choice))


def _gap(scores: Tensor, chosen: Tensor) -> Tensor:
    """Return the difference of a row's best score that was not chosen and its worst that was."""
    return scores.masked_fill(chosen, -torch.inf).amax(-1) - scores.masked_fill(~chosen, torch.inf).amin(-1)
