"""Qwen 3 with a mixture of experts (Yang et al. 2025): no shared expert, all layers with a window or none."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from model.families.family import MoESettings
from model.families.weights import Weight, attention, gated_mlp, mixture, norms, norms_of_heads
from model.families.windows import WindowSettings


class Qwen3MoESettings(MoESettings):
    """Experts of a width of their own; chosen layers have none."""

    names: ClassVar[dict[str, str]] = {
        "num_experts": "num_local_experts",
        "router_topk": "num_experts_per_tok",
        "ffn_hidden_size": "moe_intermediate_size",
        "norm_topk_prob": "norm_topk_prob",
        "aux_loss_coefficient": "router_aux_loss_coef",
        "decoder_sparse_step": "decoder_sparse_step",
        "mlp_only_layers": "mlp_only_layers",
    }
    """Fields, with the names that `transformers` has for them."""

    ffn_hidden_size: int = Field(gt=0)
    """Width of an expert."""
    norm_topk_prob: bool = True
    """Whether the weights of the visited experts sum to 1, or are their shares of a softmax over all."""
    aux_loss_coefficient: float = Field(default=0.001, ge=0)
    """Weight of the loss that balances the experts."""
    decoder_sparse_step: int = Field(default=1, gt=0)
    """Every so many layers has experts, the others an MLP of the model's ffn_hidden_size."""
    mlp_only_layers: list[int] = Field(default=[])
    """Further layers without experts, by index from 0."""


class Qwen3Moe(WindowSettings):
    """Qwen3MoeForCausalLM."""

    architecture: ClassVar[str] = "Qwen3MoeForCausalLM"

    family: Literal["qwen3_moe"] = "qwen3_moe"
    layernorm_epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square in a norm."""
    moe: Qwen3MoESettings
    """The experts."""

    @model_validator(mode="after")
    def _some_layer_has_experts(self) -> Self:
        if not any(self.has_experts):
            raise ValueError(
                f"moe.decoder_sparse_step {self.moe.decoder_sparse_step} and moe.mlp_only_layers "
                f"{self.moe.mlp_only_layers} leave no layer of num_layers {self.num_layers} with experts; lower or "
                "shorten them"
            )
        return self

    @property
    def experts(self) -> Qwen3MoESettings:
        """The mixture of experts."""
        return self.moe

    @property
    def has_experts(self) -> list[bool]:
        """Whether a layer has experts."""
        step, without = self.moe.decoder_sparse_step, self.moe.mlp_only_layers
        return [(layer + 1) % step == 0 and layer not in without for layer in range(self.num_layers)]

    @property
    def num_expert_layers(self) -> int:
        """Layers with a mixture of experts."""
        return sum(self.has_experts)

    def split_sizes(self) -> dict[str, int]:
        """Return what tensor parallelism divides, by name. Experts are whole."""
        dense = {} if all(self.has_experts) else {"ffn_hidden_size": self.ffn_hidden_size}
        return {**super().split_sizes(), **dense}

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        return {
            **super().config(),
            **{theirs: getattr(self.moe, ours) for ours, theirs in self.moe.names.items()},
            "use_sliding_window": self.sliding_window is not None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes."""
        moe = {ours: config[theirs] for ours, theirs in Qwen3MoESettings.names.items()}
        return {**super().from_config(config), "moe": moe}

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        return {
            **super().megatron(),
            "qk_layernorm": True,
            "moe_ffn_hidden_size": self.moe.ffn_hidden_size,
            "moe_layer_freq": list(map(int, self.has_experts)),
            "moe_router_pre_softmax": not self.moe.norm_topk_prob,
        }

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:
        """Yield the weights of a layer."""
        yield from norms(ours, theirs)
        yield from attention(ours, theirs, self.num_query_groups, self.num_attention_heads // self.num_query_groups)
        yield from norms_of_heads(ours, theirs)
        if self.has_experts[layer]:
            yield from mixture(ours + "mlp.", theirs + "mlp.", self.moe.num_experts)
        else:
            yield from gated_mlp(ours + "mlp.", theirs + "mlp.")
