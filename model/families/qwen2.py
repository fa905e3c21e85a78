"""Qwen 2 and 2.5 (Yang et al. 2024): Llama with biases of queries, keys and values, and windows in the last layers."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from model.families.family import ModelSettings
from model.families.weights import Weight, heads
from model.families.windows import WindowSettings


class Qwen2(WindowSettings):
    """Qwen2ForCausalLM."""

    architecture: ClassVar[str] = "Qwen2ForCausalLM"
    names: ClassVar[dict[str, str]] = {**ModelSettings.names, "max_window_layers": "max_window_layers"}

    conversion_only: ClassVar[str | None] = (
        "transformers gives every model of this family the tokenizer class of Qwen 2, which reads text by other rules "
        "than the tokenizer of the shards; choose qwen3 or llama"
    )

    family: Literal["qwen2"] = "qwen2"
    layernorm_epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square in a norm."""
    max_window_layers: int = Field(default=28, ge=0)
    """Layers at the beginning that see the whole text; of no meaning without sliding_window."""

    @property
    def has_window(self) -> list[bool]:
        """Whether a layer has a window, where there are windows."""
        return [layer >= self.max_window_layers for layer in range(self.num_layers)]

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        config = super().config()
        if self.kv_channels is None:
            del config["head_dim"]  # released configurations do not say it
        return {**config, "use_sliding_window": self.sliding_window is not None}

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        return {**super().megatron(), "add_qkv_bias": True}

    def layer_weights(self, layer: int, ours: str, theirs: str) -> Iterator[Weight]:
        """Yield the weights of a layer."""
        yield from super().layer_weights(layer, ours, theirs)
        queries = self.num_attention_heads // self.num_query_groups
        yield heads(ours + "self_attention.", theirs + "self_attn.", "bias", self.num_query_groups, queries)
