"""The two modules that stand in Megatron-Core's local layer specs in place of its own."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model import megatron

megatron.install()

from megatron.core.transformer.module import MegatronModule  # noqa: E402 - after install
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402


class CausalAttention(MegatronModule):
    """Core attention on torch's scaled_dot_product_attention: causal, grouped queries.

    Megatron-Core's own DotProductAttention writes all s * s scores: at sequence length 512 on a CPU a whole
    training step takes 1.7 times as long with it.
    """

    def __init__(self, config: TransformerConfig, softmax_scale: float | None = None, **_: Any) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
        """Attend causally.

        Args:
            query: `[s, b, heads, d]` of this tensor-parallel rank.
            key: `[s, b, groups, d]`.
            value: `[s, b, groups, d]`.

        Returns:
            `[s, b, heads * d]`.
        """
        s, b, heads, _d = query.shape
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        grouped = heads != key.shape[1]
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.scale, enable_gqa=grouped
        )
        return out.permute(2, 0, 1, 3).reshape(s, b, -1)


class Norm:
    """Makes torch's RMSNorm in the parameters' dtype (Megatron-Core's WrappedTorchNorm leaves it float32).

    A class because Megatron-Core takes a function in a layer spec for a module that is already built.
    """

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> torch.nn.RMSNorm:
        """Return the norm of `[s, b, hidden_size]` over its last dimension."""
        return torch.nn.RMSNorm(hidden_size, eps=eps, dtype=config.params_dtype)
