"""Multi-head latent attention (Liu et al. 2024, DeepSeek-V2, section 2.1) of Megatron-Core's linear layers.

Megatron-Core's own splits the projections to the latents over tensor-parallel processes where there is no Transformer
Engine. The key of the positions, which all heads share, then gets a gradient that is up to 40 % off, while the loss
looks right. Here these projections are whole on every process. Also, the rotary positions are those that the model
gives to every layer, with all their scalings.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402 - after install
from megatron.core.tensor_parallel import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from megatron.core.transformer.enums import AttnMaskType  # noqa: E402
from megatron.core.transformer.identity_op import IdentityOp  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from model.network import accelerated, gemm  # noqa: E402
from model.network.modules import CausalAttention, Norm, rotate  # noqa: E402

_EPSILON = 1e-6
"""Of the norms of the latents, whatever that of the layers' norms is, as in `transformers`."""


@dataclass(frozen=True)
class Latents:
    """The widths of latent attention, and its scale."""

    query_rank: int | None
    """Of the latent of the queries, or none."""
    key_value_rank: int
    """Of the latent of keys and values."""
    content: int
    """Of the part of a head's query and key that has no position."""
    rotary: int
    """Of the part that is turned; the key's is one for all heads."""
    value: int
    """Of a head's value."""
    scale: float
    """Factor of the scores."""


def replace_attention(layer: ModuleSpec, latents: Latents) -> None:
    """Put latent attention in the place of attention in Megatron-Core's specification of a layer."""
    parts = layer.submodules
    parts.self_attention = ModuleSpec(LatentAttention, {"latents": latents, "attn_mask_type": AttnMaskType.causal})
    if parts.input_layernorm is IdentityOp:  # Transformer Engine has it in a layer that is not here
        parts.input_layernorm = Norm
    parts.sharded_state_dict_keys_map.pop("input_layernorm.", None)  # nor is it in a checkpoint


class LatentAttention(MegatronModule):
    """Attention whose queries, keys and values are projected up from narrow latents.

    Its weights have the names of Megatron-Core's MLASelfAttention, and their rows the order of `transformers`: in a
    head content, then position, whose pairs are neighbours; in `linear_kv_up_proj` a head's key, then its value.
    """

    def __init__(
        self,
        config: TransformerConfig,
        latents: Latents,
        layer_number: int,
        pg_collection: ProcessGroupCollection | None = None,
        **_: Any,
    ) -> None:
        config = accelerated.for_own_linear(config)
        super().__init__(config=config)
        groups = pg_collection or ProcessGroupCollection.use_mpu_process_groups(["tp", "cp"])
        self._latents, self._group = latents, groups.tp
        heads = config.num_attention_heads
        self._build_query(heads * (latents.content + latents.rotary))
        self.linear_kv_down_proj = Replicated(config, latents.key_value_rank + latents.rotary)
        self.kv_layernorm = Norm(config, latents.key_value_rank, eps=_EPSILON)
        self.linear_kv_up_proj = self._up(latents.key_value_rank, heads * (latents.content + latents.value))
        self.core_attention = CausalAttention(
            config, layer_number=layer_number, softmax_scale=latents.scale, pg_collection=groups
        )
        self.linear_proj = RowParallelLinear(
            heads * latents.value,
            config.hidden_size,
            config=config,
            init_method=config.output_layer_init_method,
            bias=False,
            input_is_parallel=True,
            skip_bias_add=True,
            tp_group=groups.tp,
        )
        self._mark_matrices()

    def _build_query(self, width: int) -> None:
        rank = self._latents.query_rank
        if rank is None:
            self.linear_q_proj = self._up(self.config.hidden_size, width)
        else:
            self.linear_q_down_proj = Replicated(self.config, rank)
            self.q_layernorm = Norm(self.config, rank, eps=_EPSILON)
            self.linear_q_up_proj = self._up(rank, width)

    def _up(self, width: int, out: int) -> ColumnParallelLinear:
        """Return a projection to heads, which are split over tensor-parallel processes."""
        return ColumnParallelLinear(
            width,
            out,
            config=self.config,
            init_method=self.config.init_method,
            bias=False,
            gather_output=False,
            tp_group=self._group,
        )

    def _mark_matrices(self) -> None:
        """Tell the optimizer (`model.optim.muon.stacked_rows`) which matrices of the paper are stacked in a weight."""
        latents = self._latents
        queries = self.linear_q_proj if latents.query_rank is None else self.linear_q_up_proj
        queries.weight.stacked_rows = (latents.content, latents.rotary)
        self.linear_kv_down_proj.weight.stacked_rows = (latents.key_value_rank, latents.rotary)
        self.linear_kv_up_proj.weight.stacked_rows = (latents.content, latents.value)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, rotary_pos_emb: Tensor, **_: Any
    ) -> tuple[Tensor, None]:
        """Attend causally.

        Args:
            hidden_states: `[s, b, h]`, of which a tensor-parallel rank holds a part of `s` under sequence parallelism.
            attention_mask: As for `CausalAttention`.
            rotary_pos_emb: As for `rotate`.

        Returns:
            Of the form of `hidden_states`, and no bias.
        """
        latents = self._latents
        query = self._query(hidden_states)
        down = self.linear_kv_down_proj(hidden_states)
        latent, position = down.split([latents.key_value_rank, latents.rotary], dim=-1)
        position = rotate(_halves(self._for_all_heads(position).unsqueeze(2)), rotary_pos_emb)
        up, _ = self.linear_kv_up_proj(self.kv_layernorm(latent))
        content, value = up.unflatten(-1, (-1, latents.content + latents.value)).split(
            [latents.content, latents.value], dim=-1
        )
        turned = rotate(_halves(query[..., latents.content :]), rotary_pos_emb)
        query = torch.cat((query[..., : latents.content], turned), dim=-1)
        key = torch.cat((content, position.expand(*content.shape[:-1], -1)), dim=-1)
        out, _ = self.linear_proj(self.core_attention(query, key, value, attention_mask))
        return out, None

    def _query(self, hidden: Tensor) -> Tensor:
        """Return this process's queries `[s, b, heads, content + rotary]`, not turned yet."""
        if self._latents.query_rank is None:
            query, _ = self.linear_q_proj(hidden)
        else:
            query, _ = self.linear_q_up_proj(self.q_layernorm(self.linear_q_down_proj(hidden)))
        heads: Tensor = query.unflatten(-1, (-1, self._latents.content + self._latents.rotary))
        return heads

    def _for_all_heads(self, x: Tensor) -> Tensor:
        """Return the whole sequence of what all heads use; its gradient is summed over the processes with the heads."""
        if self.config.sequence_parallel:
            whole: Tensor = gather_from_sequence_parallel_region(x, group=self._group)
        else:
            whole = copy_to_tensor_model_parallel_region(x, group=self._group)
        return whole


class Replicated(MegatronModule):
    """A linear layer from the residual stream that every tensor-parallel process has whole.

    Its gradient is whole too, or under sequence parallelism a share that Megatron-Core sums.
    """

    def __init__(self, config: TransformerConfig, out: int) -> None:
        super().__init__(config=config)
        weight: Any = torch.nn.Parameter(torch.empty(out, config.hidden_size, dtype=config.params_dtype))
        if config.perform_initialization:
            config.init_method(weight)
        weight.sequence_parallel = config.sequence_parallel
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """Return `[s, b, out]` of `[s, b, h]`."""
        fused = self.config.gradient_accumulation_fusion
        out: Tensor = gemm.Linear.apply(x, self.weight, None, fused, False, False, None, None, None)
        return out


def _halves(x: Tensor) -> Tensor:
    """Return `[..., d]` with the first elements of its pairs of neighbours, then the second: the order of `rotate`."""
    halves: Tensor = x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2)
    return halves
