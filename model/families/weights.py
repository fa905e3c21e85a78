"""How the weights of Megatron-Core correspond to the tensors of a `transformers` checkpoint. Imports no torch.

Megatron-Core's side is the model that is not split: dist_checkpointing cuts it for any layout. The other side has the
names and shapes that published checkpoints have on disk. A correspondence is said once and serves both ways: the
tensors of a checkpoint are views of a weight, which are read in an export and written in an import.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Weight:
    """A weight of Megatron-Core and the tensors in it."""

    megatron: str
    """Its name."""
    parts: tuple[str, ...]
    """Names of the `transformers` tensors."""
    views: "Callable[[Tensor], Sequence[Tensor]]"
    """Returns a view of the weight for each part, with its elements in order. A part's first dimension may be several
    in its view: the view may not be contiguous where a layer interleaves its parts."""
    padding: int = 0
    """Rows at the end that no part has: padding of the vocabulary, which takes no share of the softmax."""
    float32: bool = False
    """Whether its tensors are float32 whatever the type of the model."""


def tensors(weight: Weight, own: "Tensor") -> "Iterator[tuple[str, Tensor]]":
    """Yield the tensors of `transformers` in a weight by name; a copy where the view is not contiguous."""
    for name, view in zip(weight.parts, weight.views(own), strict=True):
        yield name, view.flatten(0, view.dim() - own.dim())


def fill(weight: Weight, own: "Tensor", tensor: "Callable[[str], Tensor]") -> None:
    """Copy the tensors of `transformers`, which `tensor` returns by name, into a weight.

    Padding rows become copies of the last real row, as in Megatron-LM's converters.
    """
    for name, view in zip(weight.parts, weight.views(own), strict=True):
        view.copy_(tensor(name).view(view.shape))
    if weight.padding:
        own[-weight.padding :] = own[-weight.padding - 1]


def same(megatron: str, name: str, float32: bool = False) -> Weight:
    """Return a weight that both lay out alike."""
    return Weight(megatron, (name,), lambda weight: (weight,), float32=float32)


def stacked(megatron: str, names: tuple[str, ...]) -> Weight:
    """Return a weight whose rows are those of its parts, which are of one size."""
    return Weight(megatron, names, lambda weight: weight.chunk(len(names)))


def vocabulary(megatron: str, name: str, padded: int, vocab_size: int) -> Weight:
    """Return a table `[v, h]`, which Megatron-Core pads."""
    return Weight(megatron, (name,), lambda weight: (weight[:vocab_size],), padding=padded - vocab_size)


def query_key_value(megatron: str, names: tuple[str, str, str], groups: int, queries: int) -> Weight:
    """Return the fused projection `[groups * (queries + 2) * d, h]`, or its bias.

    It holds for each query group its query heads, its key, its value. The parts are the queries
    `[groups * queries * d, h]`, the keys and the values `[groups * d, h]`.
    """
    return Weight(megatron, names, partial(_split_heads, groups, queries))


def _split_heads(groups: int, queries: int, fused: "Tensor") -> "Sequence[Tensor]":
    grouped = fused.unflatten(0, (groups, queries + 2, -1))
    views = grouped.split([queries, 1, 1], dim=1)
    return [view.flatten(1, 2) for view in views]


def outer(padded: int, vocab_size: int, tied: bool) -> Iterator[Weight]:
    """Yield the weights outside the layers."""
    yield vocabulary("embedding.word_embeddings.weight", "model.embed_tokens.weight", padded, vocab_size)
    if not tied:
        yield vocabulary("output_layer.weight", "lm_head.weight", padded, vocab_size)
    yield same("decoder.final_layernorm.weight", "model.norm.weight")


def norms(ours: str, theirs: str) -> Iterator[Weight]:
    """Yield the norms before attention and before the MLP of a layer.

    Args:
        ours: Prefix of the layer in Megatron-Core, as in what follows.
        theirs: Prefix in `transformers`.
    """
    yield same(ours + "input_layernorm.weight", theirs + "input_layernorm.weight")
    yield same(ours + "pre_mlp_layernorm.weight", theirs + "post_attention_layernorm.weight")


def attention(ours: str, theirs: str, groups: int, queries: int) -> Iterator[Weight]:
    """Yield the matrices of a layer's attention.

    Args:
        ours: Prefix of the layer.
        theirs: Prefix of the layer.
        groups: Key and value heads.
        queries: Query heads of each.
    """
    ours, theirs = ours + "self_attention.", theirs + "self_attn."
    yield heads(ours, theirs, "weight", groups, queries)
    yield same(ours + "linear_proj.weight", theirs + "o_proj.weight")


def heads(ours: str, theirs: str, kind: str, groups: int, queries: int) -> Weight:
    """Return the projection to queries, keys and values of an attention: its `weight`, or its `bias`."""
    names = (f"{theirs}q_proj.{kind}", f"{theirs}k_proj.{kind}", f"{theirs}v_proj.{kind}")
    return query_key_value(f"{ours}linear_qkv.{kind}", names, groups, queries)


def norms_of_heads(ours: str, theirs: str) -> Iterator[Weight]:
    """Yield the norms of a head's query and of its key, which all heads of a layer share.

    Args:
        ours: Prefix of the layer.
        theirs: Prefix of the layer.
    """
    for name in ("q", "k"):
        yield same(f"{ours}self_attention.{name}_layernorm.weight", f"{theirs}self_attn.{name}_norm.weight")


def gated_mlp(ours: str, theirs: str, names: Sequence[str] = ("gate_proj", "up_proj", "down_proj")) -> Iterator[Weight]:
    """Yield the matrices of a gated MLP, or of an expert.

    Args:
        ours: Prefix of the MLP.
        theirs: Prefix of the MLP.
        names: What `transformers` calls the gate, the projection up and the one down.
    """
    gate, up, down = (f"{theirs}{name}.weight" for name in names)
    yield stacked(ours + "linear_fc1.weight", (gate, up))
    yield same(ours + "linear_fc2.weight", down)


def mixture(ours: str, theirs: str, num_experts: int) -> Iterator[Weight]:
    """Yield the router and the experts of a layer.

    Args:
        ours: Prefix of the mixture.
        theirs: Prefix of the mixture.
        num_experts: Its experts.
    """
    yield same(ours + "router.weight", theirs + "gate.weight")
    for index in range(num_experts):
        yield from gated_mlp(f"{ours}experts.local_experts.{index}.", f"{theirs}experts.{index}.")
