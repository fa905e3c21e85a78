"""How the weights of Megatron-Core correspond to the tensors of a `transformers` checkpoint, said once for both ways.

Megatron-Core's side is the model that is not split: dist_checkpointing cuts it for any layout. The other side has the
names and shapes that published checkpoints have on disk.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.settings import ModelSettings


@dataclass(frozen=True)
class Weight:
    """A weight of Megatron-Core and what it is made of."""

    megatron: str
    """Its name."""
    parts: tuple[str, ...]
    """Names of the `transformers` tensors in it."""
    split: Callable[[Tensor], Sequence[Tensor]]
    """Cuts the weight into its parts."""
    join: Callable[[Sequence[Tensor]], Tensor]
    """Puts the parts together; the inverse of `split`, but for padding."""


def same(megatron: str, name: str) -> Weight:
    """Return a weight that both lay out alike."""
    return Weight(megatron, (name,), lambda weight: (weight,), lambda parts: parts[0])


def stacked(megatron: str, names: tuple[str, ...]) -> Weight:
    """Return a weight whose rows are those of its parts, which are of one size."""
    return Weight(megatron, names, lambda weight: weight.chunk(len(names)), lambda parts: torch.cat(list(parts)))


def vocabulary(megatron: str, name: str, model: ModelSettings, vocab_size: int) -> Weight:
    """Return a table `[v, h]` that Megatron-Core pads.

    The padding is copies of the last row, as in Megatron-LM's converters; it takes no share of the softmax.
    """
    padding = model.padded_vocab_size(vocab_size) - vocab_size

    def join(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([parts[0], parts[0][-1:].expand(padding, -1)])

    return Weight(megatron, (name,), lambda weight: (weight[:vocab_size],), join)


def query_key_value(megatron: str, names: tuple[str, str, str], model: ModelSettings) -> Weight:
    """Return the fused projection `[(heads + 2 * groups) * d, h]`.

    It holds for each query group its query heads, its key, its value. The parts are the queries `[heads * d, h]`, the
    keys and the values `[groups * d, h]`.
    """
    head, groups = model.hidden_size // model.num_attention_heads, model.num_query_groups
    queries = model.num_attention_heads // groups * head

    def split(fused: Tensor) -> Sequence[Tensor]:
        grouped = fused.unflatten(0, (groups, queries + 2 * head))
        return [part.flatten(0, 1) for part in grouped.split([queries, head, head], dim=1)]

    def join(parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.unflatten(0, (groups, -1)) for part in parts], dim=1).flatten(0, 1)

    return Weight(megatron, names, split, join)


def to_transformers(weights: Iterable[Weight], megatron: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the `transformers` tensors of Megatron-Core's unsplit weights, by name."""
    for weight in weights:
        yield from zip(weight.parts, weight.split(megatron[weight.megatron]), strict=True)


def to_megatron(weights: Iterable[Weight], tensor: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield Megatron-Core's unsplit weights by name, of the `transformers` tensors that `tensor` returns by name."""
    for weight in weights:
        yield weight.megatron, weight.join([tensor(name) for name in weight.parts])
