"""What stands in Megatron-Core's local layer specs in place of its own modules.

Without Transformer Engine its attention, rotation and gated activation write several intermediate tensors each. On a
CPU, where such passes cost as much as some GEMMs, that makes a training step slower than plain `transformers`.
"""

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


class _SwiGLUFunction(torch.autograd.Function):
    """silu(gate) * up of a fused `[gate; up]`, with a backward that writes the fused gradient in place."""

    @staticmethod
    def forward(ctx: Any, fused: Tensor) -> Tensor:
        ctx.save_for_backward(fused)
        gate, up = fused.chunk(2, dim=-1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (fused,) = ctx.saved_tensors
        gate, up = fused.chunk(2, dim=-1)
        grad_fused = torch.empty_like(fused)
        grad_gate, grad_up = grad_fused.chunk(2, dim=-1)
        torch.mul(grad, functional.silu(gate), out=grad_up)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
        return grad_fused


class SwiGLU(MegatronModule):
    """The gated activation of the MLP (Shazeer 2020): `[s, b, 2 * f]`, gate then up, to `[s, b, f]`."""

    def forward(self, fused: Tensor) -> Tensor:
        """Return silu(gate) * up."""
        out: Tensor = _SwiGLUFunction.apply(fused)
        return out


class _RotationFunction(torch.autograd.Function):
    """Rotation of pairs (i, i + d/2) by given angles; its gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotate(grad, cos, -sin), None, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = x * cos
    first, second = x.chunk(2, dim=-1)
    sin = sin[..., : first.shape[-1]]
    out_first, out_second = out.chunk(2, dim=-1)
    out_first.addcmul_(second, sin, value=-1)
    out_second.addcmul_(first, sin)
    return out


def rotate(x: Tensor, angles: Tensor, interleaved: bool = False) -> Tensor:
    """Apply rotary positions (Su et al. 2021, equation 34, with the halves of a head as pairs).

    Args:
        x: `[s, b, heads, d]`.
        angles: `[s, 1, 1, d]`, the second half as the first.
        interleaved: Megatron-Core's other layout of pairs; no family here has it.
    """
    assert not interleaved and angles.shape[-1] == x.shape[-1]
    out: Tensor = _RotationFunction.apply(x, angles.cos().to(x.dtype), angles.sin().to(x.dtype))
    return out


class Norm:
    """Makes torch's RMSNorm in the parameters' dtype (Megatron-Core's WrappedTorchNorm leaves it float32).

    A class because Megatron-Core takes a function in a layer spec for a module that is already built.
    """

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> torch.nn.RMSNorm:
        """Return the norm of `[s, b, hidden_size]` over its last dimension."""
        return torch.nn.RMSNorm(hidden_size, eps=eps, dtype=config.params_dtype)
