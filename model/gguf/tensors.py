"""How the tensors of a GGUF file are made of those of a `transformers` folder."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from model.convert.tensor_files import Entry

Make = Callable[[Tensor], Tensor]
"""Makes a tensor of the file of one on disk; works on the meta device too."""

_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+\.weight)")
_LAYER = re.compile(r"(?:model|gpt_neox)\.layers\.(\d+)\.(.*)")


def as_it_is(weight: Tensor) -> Tensor:
    """Return a tensor that both lay out alike."""
    return weight


@dataclass(frozen=True)
class Target:
    """A tensor of the GGUF file."""

    name: str
    """Its name there."""
    parts: tuple[str, ...]
    """Names on disk of the tensors that it is made of: one, or experts."""
    make: Make = as_it_is
    """Makes it of each of them."""
    stacked: bool = False
    """It has a dimension for the experts."""
    constant: Tensor | None = None
    """What it is where it is made of none."""

    def pieces(self, tensor: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield its values in order, with where they are from.

        Args:
            tensor: Reads a part.
        """
        if self.constant is not None:
            yield self.name, self.constant
        for part in self.parts:
            yield part, self.make(tensor(part))

    def shape(self, entries: Mapping[str, Entry]) -> tuple[int, ...]:
        """Return its sizes, of those of the parts."""
        _, first = next(self.pieces(lambda part: torch.empty(entries[part].shape, device="meta")))
        return (len(self.parts), *first.shape) if self.stacked else tuple(first.shape)


def with_experts_together(names: Iterable[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each name with itself, but for the experts of a layer a name without number with the names of all."""
    experts: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for name in names:
        if match := _EXPERT.fullmatch(name):
            experts[f"{match[1]}.{match[3]}"][int(match[2])] = name
        else:
            yield name, (name,)
    for name, parts in experts.items():
        yield name, tuple(parts[number] for number in range(len(parts)))


def in_layer(name: str) -> tuple[int | None, str]:
    """Return the number of a tensor's layer, if it is in one, and the rest of its name."""
    match = _LAYER.fullmatch(name)
    return (int(match[1]), match[2]) if match else (None, name)


def interleaved(heads: int) -> Make:
    """Return what orders the rows of `heads` heads so that the two that are rotated together are neighbours.

    `transformers` rotates row i of a head's first half with row i of its second; llama.cpp's architecture llama has
    kept the order of Meta's own checkpoints.
    """
    return lambda weight: weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def unmixed(heads: int) -> Make:
    """Return what puts GPT-NeoX's rows, per head query, key and value, into all queries, all keys, all values."""
    return lambda weight: weight.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def latent_keys(config: PreTrainedConfig) -> Make:
    """Return what takes from MLA's `kv_b_proj` the keys, `[heads, latent, d]`: they are put into the queries."""
    return lambda weight: _per_head(weight, config)[:, : config.qk_nope_head_dim].transpose(1, 2)


def latent_values(config: PreTrainedConfig) -> Make:
    """Return what takes from MLA's `kv_b_proj` the values, `[heads, d, latent]`."""
    return lambda weight: _per_head(weight, config)[:, config.qk_nope_head_dim :]


def _per_head(weight: Tensor, config: PreTrainedConfig) -> Tensor:
    heads: int = config.num_attention_heads
    per_head: Tensor = weight.unflatten(0, (heads, -1))  # torch leaves it untyped
    return per_head
