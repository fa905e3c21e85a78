"""How the tensors of a GGUF file are made of those of a `transformers` folder."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from model.convert.tensor_files import Entry

Make = Callable[[Sequence[Tensor]], Tensor]


def _only(parts: Sequence[Tensor]) -> Tensor:
    return parts[0]


_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+\.weight)")
_LAYER = re.compile(r"(?:model|gpt_neox)\.layers\.(\d+)\.(.*)")


@dataclass(frozen=True)
class Target:
    """A tensor of the GGUF file."""

    name: str
    """Its name there."""
    parts: tuple[str, ...]
    """Names on disk of the tensors that it is made of."""
    make: Make = _only
    """Makes it of them; works on the meta device too."""
    stacked: bool = False
    """It holds the parts one after the other, each made alone: experts."""

    def pieces(self, tensor: Callable[[str], Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Yield its values in order, with where they are from: one part after the other, or all at once.

        Args:
            tensor: Reads a part.
        """
        if self.stacked:
            yield from ((part, self.make([tensor(part)])) for part in self.parts)
        else:
            yield ", ".join(self.parts), self.make([tensor(part) for part in self.parts])

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
    return lambda parts: parts[0].unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def constant(tensor: Tensor) -> Make:
    """Return what makes a tensor of nothing."""
    return lambda _: tensor


def unmixed(heads: int) -> Make:
    """Return what puts GPT-NeoX's rows, per head query, key and value, into all queries, all keys, all values."""
    return lambda parts: parts[0].unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)


def latent_keys(config: PreTrainedConfig) -> Make:
    """Return what takes from MLA's `kv_b_proj` the keys, `[heads, latent, d]`: they are put into the queries."""
    return lambda parts: _per_head(parts[0], config)[:, : config.qk_nope_head_dim].transpose(1, 2)


def latent_values(config: PreTrainedConfig) -> Make:
    """Return what takes from MLA's `kv_b_proj` the values, `[heads, d, latent]`."""
    return lambda parts: _per_head(parts[0], config)[:, config.qk_nope_head_dim :]


def _per_head(weight: Tensor, config: PreTrainedConfig) -> Tensor:
    heads: int = config.num_attention_heads
    per_head: Tensor = weight.unflatten(0, (heads, -1))  # torch leaves it untyped
    return per_head
