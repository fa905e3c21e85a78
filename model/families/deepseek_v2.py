"""DeepSeek-V2 (Liu et al. 2024): latent attention, shared experts, and experts of a few groups for each token."""

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from model.families.family import ModelSettings, MoESettings
from model.families.rope import Yarn
from model.families.weights import Weight, gated_mlp, mixture, norms, same

if TYPE_CHECKING:
    from megatron.core.transformer.spec_utils import ModuleSpec


class DeepseekMoE(MoESettings):
    """Experts of a width of their own beside some that every token visits; the first layers have none."""

    names: ClassVar[dict[str, str]] = {
        "num_experts": "n_routed_experts",
        "router_topk": "num_experts_per_tok",
        "ffn_hidden_size": "moe_intermediate_size",
        "num_shared_experts": "n_shared_experts",
        "num_dense_layers": "first_k_dense_replace",
        "router_num_groups": "n_group",
        "router_group_topk": "topk_group",
        "router_topk_scaling_factor": "routed_scaling_factor",
    }
    """Fields that `transformers` has under another name, with that name."""

    ffn_hidden_size: int = Field(gt=0)
    """Width of an expert."""
    num_shared_experts: int = Field(gt=0)
    """Experts that every token visits, as one MLP."""
    num_dense_layers: int = Field(ge=0)
    """Layers at the beginning that have an MLP of the model's ffn_hidden_size instead."""
    router_num_groups: int | None = Field(default=None, gt=0)
    """Groups of neighbouring experts, of which a token visits some; null for no groups."""
    router_group_topk: int | None = Field(default=None, gt=0)
    """Groups that a token visits."""
    router_topk_scaling_factor: float = Field(default=1.0, gt=0)
    """Factor on what the visited experts add."""
    router_load_balancing_type: Literal["aux_loss", "seq_aux_loss"] = "seq_aux_loss"
    """Whether experts are balanced over micro batches or in every sequence."""
    aux_loss_coefficient: float = Field(default=0.001, ge=0)
    """Weight of the loss that balances the experts."""

    @property
    def has_groups(self) -> bool:
        """Whether there is a choice among groups."""
        return self.router_num_groups not in (None, 1)

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if (self.router_num_groups is None) != (self.router_group_topk is None):
            raise ValueError("router_num_groups and router_group_topk need each other; set both or neither")
        groups, visited = self.router_num_groups or 1, self.router_group_topk or 1
        if self.num_experts % groups:
            raise ValueError(f"num_experts {self.num_experts} is not divisible by router_num_groups {groups}")
        if visited > groups:
            raise ValueError(f"router_group_topk {visited} is above router_num_groups {groups}; lower it")
        if self.router_topk > visited * self.num_experts // groups:
            raise ValueError(
                f"router_topk {self.router_topk} is above the experts of router_group_topk {visited} groups; raise that"
            )
        return self


class DeepseekV2(ModelSettings):
    """DeepseekV2ForCausalLM."""

    architecture: ClassVar[str] = "DeepseekV2ForCausalLM"
    names: ClassVar[dict[str, str]] = {
        **ModelSettings.names,
        "q_lora_rank": "q_lora_rank",
        "kv_lora_rank": "kv_lora_rank",
        "qk_head_dim": "qk_nope_head_dim",
        "qk_pos_emb_head_dim": "qk_rope_head_dim",
        "v_head_dim": "v_head_dim",
    }
    _experts_of_a_group: ClassVar[int] = 1
    """How many experts' scores are summed for the score of a group."""

    family: Literal["deepseek_v2"] = "deepseek_v2"
    q_lora_rank: int | None = Field(default=None, gt=0)
    """Width of the latent of the queries; null projects them from the residual stream."""
    kv_lora_rank: int = Field(gt=0)
    """Width of the latent of keys and values."""
    qk_head_dim: int = Field(gt=0)
    """Width of the part of a head's query and key that has no position."""
    qk_pos_emb_head_dim: int = Field(gt=0)
    """Width of the part that is turned by the position; of the key, all heads share it."""
    v_head_dim: int = Field(gt=0)
    """Width of a head's value."""
    layernorm_epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square in a layer's norms; in those of the latents it is always 1e-6, as in `transformers`."""
    moe: DeepseekMoE
    """The experts."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.kv_channels is not None:
            raise ValueError("kv_channels has no meaning beside qk_head_dim and qk_pos_emb_head_dim; leave it out")
        if self.num_query_groups != self.num_attention_heads:
            raise ValueError(
                f"num_query_groups {self.num_query_groups} is not num_attention_heads {self.num_attention_heads}: "
                "latents give every head a key and a value; set both alike"
            )
        if self.qk_pos_emb_head_dim % 2:
            raise ValueError(f"qk_pos_emb_head_dim {self.qk_pos_emb_head_dim} must be even for rotary positions")
        return self

    @model_validator(mode="after")
    def _some_layer_has_experts(self) -> Self:
        if self.moe.num_dense_layers >= self.num_layers:
            raise ValueError(
                f"moe.num_dense_layers {self.moe.num_dense_layers} leaves no layer of num_layers {self.num_layers} "
                "with experts; lower it"
            )
        return self

    @property
    def head_dim(self) -> int:
        """Width of the part of a head that is turned, as `transformers` calls it."""
        return self.qk_pos_emb_head_dim

    @property
    def experts(self) -> DeepseekMoE:
        """The mixture of experts."""
        return self.moe

    @property
    def num_expert_layers(self) -> int:
        """Layers with a mixture of experts."""
        return self.num_layers - self.moe.num_dense_layers

    @property
    def attention_width(self) -> int:
        """What attention multiplies for a pair of tokens: the mean of the widths of all its keys and all its values."""
        return self.num_attention_heads * (self.qk_head_dim + self.qk_pos_emb_head_dim + self.v_head_dim) // 2

    @property
    def attention_scale(self) -> float:
        """Factor of the scores: the square root of a key's width, and the square of the term of mscale_all_dim."""
        scale = 1 / math.sqrt(self.qk_head_dim + self.qk_pos_emb_head_dim)
        if isinstance(self.rope_scaling, Yarn) and self.rope_scaling.mscale_all_dim:
            scale *= (0.1 * self.rope_scaling.mscale_all_dim * math.log(self.rope_scaling.factor) + 1) ** 2
        return scale

    def split_sizes(self) -> dict[str, int]:
        """Return what tensor parallelism divides, by name. Experts are whole, but for those that all tokens visit."""
        dense = {"ffn_hidden_size": self.ffn_hidden_size} if self.moe.num_dense_layers else {}
        shared = {"moe.ffn_hidden_size * num_shared_experts": self.moe.ffn_hidden_size * self.moe.num_shared_experts}
        return {**super().split_sizes(), **dense, **shared}

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        return {
            **super().config(),
            **{theirs: getattr(self.moe, ours) for ours, theirs in self.moe.names.items()},
            "topk_method": "group_limited_greedy" if self.moe.has_groups else "greedy",
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes."""
        moe = {ours: config[theirs] for ours, theirs in DeepseekMoE.names.items()}
        return {**super().from_config(config), "kv_channels": None, "moe": moe}

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        moe = self.moe
        return {
            "moe_layer_freq": [0] * moe.num_dense_layers + [1] * (self.num_layers - moe.num_dense_layers),
            "moe_ffn_hidden_size": moe.ffn_hidden_size,
            "moe_shared_expert_intermediate_size": moe.ffn_hidden_size * moe.num_shared_experts,
            "moe_router_load_balancing_type": moe.router_load_balancing_type,
            "moe_router_pre_softmax": True,  # no second softmax over the chosen
            "moe_router_num_groups": moe.router_num_groups if moe.has_groups else None,
            "moe_router_group_topk": moe.router_group_topk if moe.has_groups else None,
            "moe_router_topk_scaling_factor": moe.router_topk_scaling_factor,
        }

    def adapt(self, layer: "ModuleSpec") -> None:
        """Change Megatron-Core's specification of a layer: latent attention, shared experts, choice among groups."""
        from model.network.latent_attention import Latents, replace_attention
        from model.network.modules import SwiGLU
        from model.network.router import GroupLimitedRouter

        latents = Latents(
            query_rank=self.q_lora_rank,
            key_value_rank=self.kv_lora_rank,
            content=self.qk_head_dim,
            rotary=self.qk_pos_emb_head_dim,
            value=self.v_head_dim,
            scale=self.attention_scale,
        )
        replace_attention(layer, latents)
        mlp = layer.submodules.mlp.submodules
        if hasattr(mlp, "router"):
            mlp.shared_experts.submodules.activation_func = SwiGLU
            if self.moe.has_groups:
                mlp.router = partial(GroupLimitedRouter, self._experts_of_a_group)

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:
        """Yield the weights of a layer."""
        yield from norms(ours, theirs)
        yield from self._attention_weights(ours + "self_attention.", theirs + "self_attn.")
        ours, theirs = ours + "mlp.", theirs + "mlp."
        if layer < self.moe.num_dense_layers:
            yield from gated_mlp(ours, theirs)
        else:
            yield from mixture(ours, theirs, self.moe.num_experts)
            yield from gated_mlp(ours + "shared_experts.", theirs + "shared_experts.")

    def _attention_weights(self, ours: str, theirs: str) -> Iterator[Weight]:
        if self.q_lora_rank is None:
            yield same(ours + "linear_q_proj.weight", theirs + "q_proj.weight")
        else:
            yield same(ours + "linear_q_down_proj.weight", theirs + "q_a_proj.weight")
            yield same(ours + "q_layernorm.weight", theirs + "q_a_layernorm.weight")
            yield same(ours + "linear_q_up_proj.weight", theirs + "q_b_proj.weight")
        yield same(ours + "linear_kv_down_proj.weight", theirs + "kv_a_proj_with_mqa.weight")
        yield same(ours + "kv_layernorm.weight", theirs + "kv_a_layernorm.weight")
        yield same(ours + "linear_kv_up_proj.weight", theirs + "kv_b_proj.weight")
        yield same(ours + "linear_proj.weight", theirs + "o_proj.weight")
