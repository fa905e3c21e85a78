"""Mixtral (Jiang et al. 2024): Llama with a mixture of experts in place of each MLP, softmax over the chosen ones."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from model.families.family import ModelSettings, MoESettings
from model.families.weights import Weight, attention, gated_mlp, norms, same


class Mixtral(ModelSettings):
    """MixtralForCausalLM."""

    architecture: ClassVar[str] = "MixtralForCausalLM"

    family: Literal["mixtral"] = "mixtral"
    moe: MoESettings
    """The experts; each is a gated MLP of ffn_hidden_size."""

    @property
    def experts(self) -> MoESettings:
        """The mixture of experts."""
        return self.moe

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        return {
            **super().config(),
            "num_local_experts": self.moe.num_experts,
            "num_experts_per_tok": self.moe.router_topk,
            "router_aux_loss_coef": self.moe.aux_loss_coefficient,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes."""
        moe = {
            "num_experts": config["num_local_experts"],
            "router_topk": config["num_experts_per_tok"],
            "aux_loss_coefficient": config["router_aux_loss_coef"],
        }
        return {**super().from_config(config), "moe": moe}

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:  # noqa: ARG002
        """Yield the weights of a layer. In an expert w1 is the gate, w3 the projection up and w2 the one down."""
        yield from norms(ours, theirs)
        yield from attention(ours, theirs, self.num_query_groups, self.num_attention_heads // self.num_query_groups)
        mixture = theirs + "block_sparse_moe."
        yield same(ours + "mlp.router.weight", mixture + "gate.weight")
        for index in range(self.moe.num_experts):
            expert = f"{mixture}experts.{index}."
            yield from gated_mlp(f"{ours}mlp.experts.local_experts.{index}.", expert, ("w1", "w3", "w2"))
