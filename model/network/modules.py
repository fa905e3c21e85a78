"""What stands in Megatron-Core's local layer specs in place of its own modules.

Without Transformer Engine its attention, rotation and gated activation write several intermediate tensors each. On a
CPU, where such passes cost as much as some GEMMs, that makes a training step slower than plain `transformers`.
"""

import contextlib
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right

from model import megatron

megatron.install()

from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402 - after install
from megatron.core.tensor_parallel import gather_from_sequence_parallel_region, get_cuda_rng_tracker  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from megatron.core.transformer.utils import is_layer_window_attention  # noqa: E402

from model.network import block_attention, zigzag  # noqa: E402
from model.network.norm import RMSNorm  # noqa: E402

_FEWEST_QUERIES = 1024
"""Of a block with a window: fewer would leave a GPU idle, more compute more of what the window hides."""


class CausalAttention(MegatronModule):
    """Core attention on torch's scaled_dot_product_attention: causal, grouped queries, within documents if masked.

    A layer may have a window (Beltagy et al. 2020): a token then sees itself and those just before it, `window` in all,
    which is Megatron-Core's `window_size[0]` and one more, in the layers that its window_attn_skip_freq says.

    Megatron-Core's own DotProductAttention writes all s * s scores: at sequence length 512 on a CPU a whole
    training step takes 1.7 times as long with it. Under context parallelism every process gathers all keys and values
    (Llama 3, Dubey et al. 2024, section 3.3.2), for which Megatron-Core needs Transformer Engine.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int = 1,
        softmax_scale: float | None = None,
        pg_collection: ProcessGroupCollection | None = None,
        **_: Any,
    ) -> None:
        super().__init__(config=config)
        self.scale = softmax_scale
        windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, layer_number)
        self.window = config.window_size[0] + 1 if windowed else None
        self._context = pg_collection.cp if pg_collection and config.context_parallel_size > 1 else None

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        """Attend causally.

        Args:
            query: `[s, b, heads, d]` of this tensor-parallel rank.
            key: `[s, b, groups, d]`.
            value: `[s, b, groups, v]`.
            attention_mask: `[b, 1, s, s_total]`, True where this rank's tokens may attend; causal if None.

        Returns:
            `[s, b, heads * v]`.
        """
        s, b, _heads, _d = query.shape
        if self._context is None:
            query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
            out = self._attend(query, key, value, attention_mask)
        else:
            key, value = (self._whole(x).permute(1, 2, 0, 3) for x in (key, value))
            out = self._attend_by_chunk(query.permute(1, 2, 0, 3), key, value, attention_mask)
        return out.permute(2, 0, 1, 3).reshape(s, b, -1)

    def _whole(self, part: Tensor) -> Tensor:
        """Return the whole sequence `[s_total, b, groups, d]` of a part; its gradient is summed over the processes."""
        gathered = gather_from_sequence_parallel_region(part, group=self._context)
        return zigzag.join(list(gathered.split(len(part))), dim=0)

    def _attend_by_chunk(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend with each of this rank's chunks to the sequence up to its end."""
        assert self._context is not None
        chunks = zigzag.chunks_of(self._context.rank(), self._context.size())
        ends = [(index + 1) * query.shape[2] // 2 for index in chunks]
        masks = (None, None) if mask is None else mask.chunk(2, dim=2)
        return torch.cat(
            [
                self._attend(chunk, key[:, :, :end], value[:, :, :end], None if own is None else own[..., :end])
                for chunk, end, own in zip(query.chunk(2, dim=2), ends, masks, strict=True)
            ],
            dim=2,
        )

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return `[b, heads, s, v]`; without a mask the last query attends to all keys, or to its window."""
        total = key.shape[2]
        window = self.window if self.window is not None and self.window < total else None
        if self._is_by_blocks(query, total, window):
            query, key, value = (x.permute(2, 0, 1, 3) for x in (query, key, value))
            scale = self.scale or query.shape[-1] ** -0.5
            return block_attention.attend(query, key, value, mask, scale, window).permute(1, 2, 0, 3)
        if window is None:
            return self._torch_attend(query, key, value, mask)
        # torch's flash kernels take no window, and a mask of all keys would cost as much as attention to all of them.
        parts = block_attention.blocks(query.shape[2], total, window, max(window, _FEWEST_QUERIES))
        return torch.cat([self._within(window, query, key, value, mask, *part) for part in parts], dim=2)

    def _within(
        self, window: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, block: slice, seen: slice
    ) -> Tensor:
        """Attend with a block of queries to the keys that its windows reach."""
        query, key, value = query[:, :, block], key[:, :, seen], value[:, :, seen]
        queries, keys = query.shape[2], key.shape[2]
        own = keys - queries  # the first query's own key
        band = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(own).triu(own - window + 1)
        return self._torch_attend(query, key, value, band if mask is None else band & mask[..., block, seen])

    def _is_by_blocks(self, query: Tensor, total: int, window: int | None) -> bool:
        if query.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return not self._dropout and block_attention.is_worthwhile(total, window)

    @property
    def _dropout(self) -> float:
        return self.config.attention_dropout if self.training else 0.0

    def _torch_attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        length, total, width = query.shape[2], key.shape[2], value.shape[3]
        if mask is None and length < total:
            mask = causal_lower_right(length, total)
        if width < query.shape[3]:  # flash kernels want one width, and torch.compile's rewriting of others fails
            value = functional.pad(value, (0, query.shape[3] - width))
        with self._own_draws() if self._dropout else contextlib.nullcontext():
            out = functional.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=self._dropout,
                scale=self.scale,
                enable_gqa=query.shape[1] != key.shape[1],
            )
        return out[..., :width]

    def _own_draws(self) -> contextlib.AbstractContextManager[None]:
        """Let tensor-parallel processes draw different dropout; under sequence parallelism the whole block does."""
        if self.config.sequence_parallel:
            return contextlib.nullcontext()
        draws: contextlib.AbstractContextManager[None] = get_cuda_rng_tracker().fork()
        return draws


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
        torch.ops.aten.silu.out(gate, out=grad_up).mul_(grad)
        torch.mul(grad, up, out=grad_gate)
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_fused


class SwiGLU(MegatronModule):
    """The gated activation of the MLP (Shazeer 2020): `[s, b, 2 * f]`, gate then up, to `[s, b, f]`."""

    def forward(self, fused: Tensor) -> Tensor:
        """Return silu(gate) * up."""
        if torch.compiler.is_compiling():  # it fuses the passes itself, and cannot trace writes into views
            gate, up = fused.chunk(2, dim=-1)
            return functional.silu(gate) * up
        out: Tensor = _SwiGLUFunction.apply(fused)
        return out


class _RotationFunction(torch.autograd.Function):
    """Rotation of pairs (i, i + d/2) by given angles, and its gradient: the rotation back."""

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


def rotate(x: Tensor, turns: Tensor, interleaved: bool = False) -> Tensor:
    """Apply rotary positions (Su et al. 2021, equation 34, with the halves of what is turned as pairs).

    Args:
        x: `[s, b, heads, d]`.
        turns: `[s, 1, 1, 2 * turned]`, cosines of the angles, the second half as the first, then sines, as
            `model.network.rotary` makes them. What a head has beyond them stays as it is.
        interleaved: Megatron-Core's other layout of pairs; no family here has it.
    """
    assert not interleaved
    turned = turns.shape[-1] // 2
    if turned < x.shape[-1]:
        return torch.cat((rotate(x[..., :turned], turns), x[..., turned:]), dim=-1)
    out: Tensor = _RotationFunction.apply(x, *turns.to(x.dtype).chunk(2, dim=-1))
    return out


@cache  # torch.compile makes a graph for every class
def with_bias(linear: type) -> type:
    """Return a linear layer of a layer spec that has a bias, whatever the configuration says of all."""

    class Biased(linear):
        def __init__(self, *args: Any, bias: bool, **kwargs: Any) -> None:  # noqa: ARG002 - what is overruled
            super().__init__(*args, bias=True, **kwargs)

    return Biased


class Norm:
    """Makes the norm that a configuration asks for; Megatron-Core's WrappedTorchNorm refuses sequence parallelism.

    A class because Megatron-Core takes a function in a layer spec for a module that is already built.
    """

    def __new__(  # type: ignore[misc]
        cls, config: TransformerConfig, hidden_size: int, eps: float = 1e-5, **_: Any
    ) -> RMSNorm | torch.nn.LayerNorm:
        """Return the norm of `[s, b, hidden_size]` over its last dimension, in the parameters' dtype."""
        make = RMSNorm if config.normalization == "RMSNorm" else torch.nn.LayerNorm
        norm = make(hidden_size, eps=eps, dtype=config.params_dtype)
        for weight in norm.parameters():
            marked: Any = weight
            marked.sequence_parallel = config.sequence_parallel  # sum its gradient over tensor-parallel processes
        return norm
