"""A layer whose attention and MLP read the same input, as GPT-NeoX has it (Black et al. 2022, section 2.1.2)."""

from typing import Any

from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.transformer.transformer_layer import TransformerLayer  # noqa: E402 - after install
from megatron.core.utils import make_viewless_tensor  # noqa: E402


class ParallelResidualLayer(TransformerLayer):
    """TransformerLayer that returns x + attention(norm(x)) + mlp(other norm(x)); each addend has its own dropout."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, rotary_pos_emb: Any = None, **_: Any
    ) -> tuple[Tensor, None]:
        """Return the residual stream `[s, b, h]` behind the layer, and no context.

        Args:
            hidden_states: `[s, b, h]`, of this process's part of the sequence.
            attention_mask: As for the attention.
            rotary_pos_emb: As for the attention.
            _: What Megatron-Core hands to layers for inference and cross attention.
        """
        attended = self.self_attention(
            self.input_layernorm(hidden_states), attention_mask=attention_mask, rotary_pos_emb=rotary_pos_emb
        )
        transformed = self.mlp(self.pre_mlp_layernorm(hidden_states))
        out = hidden_states
        for add, addend in ((self.self_attn_bda, attended), (self.mlp_bda, transformed)):
            out = add(self.training, self.config.bias_dropout_fusion)(addend, out, self.hidden_dropout)
        return make_viewless_tensor(out, requires_grad=out.requires_grad, keep_graph=True), None
