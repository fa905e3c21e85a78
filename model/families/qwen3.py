"""Qwen 3 (Yang et al. 2025): Qwen 2 with norms of a head's query and key in place of biases, and heads of any width."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from model.families.family import ModelSettings
from model.families.qwen2 import Qwen2
from model.families.weights import Weight, norms_of_heads
from model.families.windows import WindowSettings


class Qwen3(Qwen2):
    """Qwen3ForCausalLM."""

    architecture: ClassVar[str] = "Qwen3ForCausalLM"

    conversion_only: ClassVar[str | None] = None

    family: Literal["qwen3"] = "qwen3"  # type: ignore[assignment]

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        return {**super().config(), "head_dim": self.head_dim}

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        return {**WindowSettings.megatron(self), "qk_layernorm": True}

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:
        """Yield the weights of a layer."""
        yield from ModelSettings.layer_weights(self, layer, ours, theirs)
        yield from norms_of_heads(ours, theirs)
