"""Layers that see a window of the text (Beltagy et al. 2020), which several families have. Imports no torch."""

from typing import Any

from pydantic import Field

from model.families.family import ModelSettings


class WindowSettings(ModelSettings):
    """A decoder whose layers, or some of them, may have a sliding window."""

    sliding_window: int | None = Field(default=None, gt=0)
    """Tokens that a token sees in a layer with a window, itself and those just before it; null for no windows."""

    @property
    def has_window(self) -> list[bool]:
        """Whether a layer has a window, where there are windows."""
        return [True] * self.num_layers

    def attended(self, seq_length: int) -> int:
        """Return how many tokens a token attends to in all layers together, in a layer with a window at most that."""
        window = min(self.sliding_window or seq_length, seq_length)
        return sum(window if windowed else seq_length for windowed in self.has_window)

    def config(self) -> dict[str, Any]:
        """Return what the configuration of `transformers` says of this model."""
        return {**super().config(), "sliding_window": self.sliding_window}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of the model that a configuration of `transformers` describes."""
        return {**super().from_config(config), "sliding_window": config["sliding_window"]}

    def megatron(self) -> dict[str, Any]:
        """Return what is other in Megatron-Core's TransformerConfig."""
        if self.sliding_window is None:
            return super().megatron()
        window = (self.sliding_window - 1, 0)  # tokens before and after
        return {**super().megatron(), "window_size": window, "window_attn_skip_freq": list(map(int, self.has_window))}
