"""DeepSeek-V3 (Liu et al. 2024): DeepSeek-V2 with sigmoid routing, balanced by biases, and multi-token prediction."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from model.families.deepseek_v2 import DeepseekMoE, DeepseekV2
from model.families.weights import Weight, same


class DeepseekV3MoE(DeepseekMoE):
    """Experts that are chosen by their scores and a bias each, which training moves."""

    router_bias_update_rate: float = Field(default=0.001, ge=0)
    """Change of a bias in a step: up for experts with fewer tokens than the mean, down for the others."""
    aux_loss_coefficient: float = Field(default=0.0001, ge=0)
    """Weight of the loss that balances the experts, which with the biases may be small."""

    @model_validator(mode="after")
    def _two_of_a_group(self) -> Self:
        if self.router_topk == 1:
            raise ValueError("router_topk is 1, and the weights of the visited experts sum to 1; set it to 2 or more")
        if self.num_experts // (self.router_num_groups or 1) == 1:
            raise ValueError(
                f"router_num_groups {self.router_num_groups} leaves groups of one expert, and a group's score is the "
                "sum of its best two; lower it"
            )
        return self


class DeepseekV3(DeepseekV2):
    """DeepseekV3ForCausalLM."""

    architecture: ClassVar[str] = "DeepseekV3ForCausalLM"
    _experts_of_a_group: ClassVar[int] = 2

    family: Literal["deepseek_v3"] = "deepseek_v3"  # type: ignore[assignment]
    moe: DeepseekV3MoE
    """The experts."""
    mtp_num_layers: int | None = Field(default=None, gt=0)
    """Tokens after the next that training also predicts, with a layer more for each; null for none."""
    mtp_loss_scaling_factor: float = Field(default=0.3, ge=0)
    """Weight of the mean loss of these tokens."""

    @model_validator(mode="after")
    def _own_output_layer(self) -> Self:
        if self.mtp_num_layers and self.share_embeddings_and_output_weights:
            raise ValueError(
                "mtp_num_layers needs an output layer of its own; set share_embeddings_and_output_weights to false"
            )
        return self

    @property
    def experts(self) -> DeepseekV3MoE:
        """The mixture of experts."""
        return self.moe

    @property
    def num_expert_layers(self) -> int:
        """Layers with a mixture of experts, those for further tokens among them."""
        return super().num_expert_layers + (self.mtp_num_layers or 0)

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        config = super().config()
        del config["topk_method"]
        groups = {"n_group": self.moe.router_num_groups or 1, "topk_group": self.moe.router_group_topk or 1}
        return {**config, **groups, "num_mtp_layers": self.mtp_num_layers or 0}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes."""
        return {**super().from_config(config), "mtp_num_layers": config["num_nextn_predict_layers"] or None}

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        return {
            **super().megatron(),
            "moe_router_pre_softmax": False,
            "moe_router_score_function": "sigmoid",
            "moe_router_enable_expert_bias": True,
            "moe_router_bias_update_rate": self.moe.router_bias_update_rate,
            "mtp_num_layers": self.mtp_num_layers,
            "mtp_loss_scaling_factor": self.mtp_loss_scaling_factor,
        }

    def weights(self, vocab_size: int) -> Iterator[Weight]:
        """Yield how every weight corresponds to the tensors of `transformers`.

        The layers that predict further tokens stand behind the others, as in the published checkpoints; `transformers`
        loads them for speculative decoding alone.
        """
        yield from super().weights(vocab_size)
        for depth in range(self.mtp_num_layers or 0):
            layer = self.num_layers + depth
            ours, theirs = f"mtp.layers.{depth}.", f"model.layers.{layer}."
            for name in ("enorm", "hnorm", "eh_proj"):
                yield same(f"{ours}{name}.weight", f"{theirs}{name}.weight")
            yield from self.layer_weights(layer, ours + "transformer_layer.", theirs)
            yield same(ours + "final_layernorm.weight", theirs + "shared_head.norm.weight")

    def is_beside(self, name: str) -> bool:
        """Return whether a tensor is of a layer for further tokens, and left out in an import.

        Where training predicts none, all of them; where it does, their copies of the embedding and the output layer.
        """
        found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", name)
        if not found or int(found[1]) < self.num_layers:
            return False
        return not self.mtp_num_layers or found[2] in ("embed_tokens.weight", "shared_head.head.weight")

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:
        """Yield the weights of a layer."""
        yield from super().layer_weights(layer, ours, theirs)
        if layer >= self.moe.num_dense_layers:
            yield same(ours + "mlp.router.expert_bias", theirs + "mlp.gate.e_score_correction_bias", float32=True)
