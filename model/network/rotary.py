"""Rotary positions as `transformers` computes them: Megatron-Core knows fewer scalings, some with fixed constants."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model import megatron

megatron.install()

from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding  # noqa: E402 - after install
from megatron.core.transformer.attention import SelfAttention  # noqa: E402
from megatron.core.transformer.utils import is_layer_window_attention  # noqa: E402

from model.families.rope import RopeScaling, rope_parameters  # noqa: E402


class Rotary(RotaryEmbedding):
    """Cosines and sines of the angles by which queries and keys are turned, computed once for all layers.

    Its call returns `[s, 1, 1, kinds * 2 * width]` for this context-parallel rank's positions: for each scaling the
    cosines `[width]`, then the sines, as `model.network.modules.rotate` takes them.

    Args:
        width: Dimensions of a head that are turned.
        base: Base of the frequencies.
        scalings: How they are stretched: in all layers, or, if two, in layers without and in layers with a window.
    """

    def __init__(self, width: int, base: float, scalings: Sequence[RopeScaling | None] = (None,)) -> None:
        super().__init__(width, rotary_percent=1.0, use_cpu_initialization=True)
        self._settings = width, tuple(scalings)
        inverse, self._factors = zip(*(frequencies(width, base, scaling) for scaling in scalings), strict=True)
        self.inv_freq = torch.cat(inverse)
        self._last: tuple[Any, Tensor] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return them, computed anew for another length alone.

        Megatron-Core's own cache, one for the whole process, would keep models and their process groups alive.
        """
        asked = args, tuple(kwargs.items()), self.inv_freq.device
        if self._last is None or self._last[0] != asked:
            self._last = asked, RotaryEmbedding.forward.__wrapped__(self, *args, **kwargs)
        return self._last[1]

    def with_base(self, base: float) -> "Rotary":
        """Return the same with another base."""
        width, scalings = self._settings
        return Rotary(width, base, scalings)

    def get_emb(self, max_seq_len: int, offset: int = 0) -> Tensor:
        """Return the cosines and sines of the whole sequence; Megatron-Core's call cuts them."""
        twice = super().get_emb(max_seq_len, offset).unflatten(-1, (2, len(self._factors), -1))
        angles = twice.transpose(-3, -2).flatten(-2)  # [s, 1, 1, kinds, width], the second half as the first
        factors = angles.new_tensor(self._factors)[:, None]
        return torch.cat((angles.cos() * factors, angles.sin() * factors), -1).flatten(-2)


def frequencies(width: int, base: float, scaling: RopeScaling | None) -> tuple[Tensor, float]:
    """Return the angles of a step to the next position `[width / 2]`, and the factor on what is turned by them."""
    config = LlamaConfig(head_dim=width)
    config.rope_parameters = rope_parameters(base, scaling)  # not above, where it would warn of a context length
    rotary = LlamaRotaryEmbedding(config)
    return rotary.inv_freq, rotary.attention_scaling


class SelfAttentionByWindow(SelfAttention):
    """Attention in a model whose layers with a window have a rotary scaling of their own (OLMo 3)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.config
        # Here, as torch.compile makes a graph for every layer whose number is asked for.
        self._windowed = is_layer_window_attention(config.window_size, config.window_attn_skip_freq, self.layer_number)

    def forward(self, *args: Any, rotary_pos_emb: Tensor, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Attend as Megatron-Core's does, with this layer's part of what `Rotary` of two scalings returns."""
        own = rotary_pos_emb.chunk(2, dim=-1)[self._windowed]
        out: tuple[Tensor, Tensor | None] = super().forward(*args, rotary_pos_emb=own, **kwargs)
        return out
