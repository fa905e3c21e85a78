"""Llama 2 and 3 (Touvron et al. 2023; Dubey et al. 2024): what the others are compared with."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from model.families.family import ModelSettings
from model.families.weights import Weight, heads, same, stacked

if TYPE_CHECKING:
    from megatron.core.transformer.spec_utils import ModuleSpec


class Llama(ModelSettings):
    """LlamaForCausalLM."""

    architecture: ClassVar[str] = "LlamaForCausalLM"
    names: ClassVar[dict[str, str]] = {
        **ModelSettings.names,
        "attention_bias": "attention_bias",
        "mlp_bias": "mlp_bias",
    }

    family: Literal["llama"] = "llama"
    attention_bias: bool = False
    """Whether the projections of attention have biases; Meta's models have none."""
    mlp_bias: bool = False
    """Whether the projections of the MLP have biases."""

    def adapt(self, layer: "ModuleSpec") -> None:
        """Give projections biases: Megatron-Core's add_bias_linear is for all or none."""
        from model.network.modules import with_bias

        attention, mlp = layer.submodules.self_attention.submodules, layer.submodules.mlp.submodules
        if self.attention_bias:
            attention.linear_qkv, attention.linear_proj = map(with_bias, (attention.linear_qkv, attention.linear_proj))
        if self.mlp_bias:
            mlp.linear_fc1, mlp.linear_fc2 = map(with_bias, (mlp.linear_fc1, mlp.linear_fc2))

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:
        """Yield the weights of a layer."""
        yield from super().layer_weights(layer, ours, theirs)
        if self.attention_bias:
            queries = self.num_attention_heads // self.num_query_groups
            yield heads(ours + "self_attention.", theirs + "self_attn.", "bias", self.num_query_groups, queries)
            yield same(ours + "self_attention.linear_proj.bias", theirs + "self_attn.o_proj.bias")
        if self.mlp_bias:
            gate_and_up = (theirs + "mlp.gate_proj.bias", theirs + "mlp.up_proj.bias")
            yield stacked(ours + "mlp.linear_fc1.bias", gate_and_up)
            yield same(ours + "mlp.linear_fc2.bias", theirs + "mlp.down_proj.bias")
