"""OLMo 2 (Team OLMo 2025): Llama with norms behind attention and MLP, and over all heads of a query or a key."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from model.families.family import ModelSettings
from model.families.weights import Weight, attention, gated_mlp, norms_of_heads, same

if TYPE_CHECKING:
    from megatron.core.transformer.spec_utils import ModuleSpec


class Olmo2(ModelSettings):
    """Olmo2ForCausalLM."""

    architecture: ClassVar[str] = "Olmo2ForCausalLM"

    family: Literal["olmo2"] = "olmo2"

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        config = super().config()
        if self.kv_channels is None:
            del config["head_dim"]  # released configurations do not say it
        return config

    def adapt(self, layer: "ModuleSpec") -> None:
        """Put norms over all heads, and behind the projections back into the residual stream in place of before."""
        from megatron.core.transformer.spec_utils import ModuleSpec

        from model.network.post_norm import move_norms
        from model.network.qk_norm import AllHeadsNorm

        move_norms(layer)
        attention = layer.submodules.self_attention.submodules
        attention.q_layernorm = ModuleSpec(AllHeadsNorm, params={"heads": self.num_attention_heads})
        attention.k_layernorm = ModuleSpec(AllHeadsNorm, params={"heads": self.num_query_groups})

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:  # noqa: ARG002
        """Yield the weights of a layer."""
        yield from attention(ours, theirs, self.num_query_groups, self.num_attention_heads // self.num_query_groups)
        yield from norms_of_heads(ours, theirs)
        yield from gated_mlp(ours + "mlp.", theirs + "mlp.")
        behind = {"self_attention.linear_proj": "post_attention", "mlp.linear_fc2": "post_feedforward"}
        for projection, place in behind.items():
            yield same(f"{ours}{projection}.post_layernorm.weight", f"{theirs}{place}_layernorm.weight")
