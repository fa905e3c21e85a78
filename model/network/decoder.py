"""The model: Megatron-Core's GPTModel with our output layer and loss."""

from typing import Any

from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402 - after install

from model.network.loss import output_losses  # noqa: E402


class Decoder(GPTModel):
    """GPTModel whose padding rows of the vocabulary take no share of the softmax.

    Megatron-Core trains them along, so that its loss is not the loss of the exported model, which has none.

    Given labels `[b, s]`, the last pipeline stage returns `[2, b, s]` float32: cross entropy in nats, and the squared
    log-denominator of the softmax. Without labels it returns logits `[b, s, v / tensor-parallel size]` with padding.

    Args:
        args: GPTModel's.
        unpadded_vocab_size: Real ids.
        kwargs: GPTModel's.
    """

    def __init__(self, *args: Any, unpadded_vocab_size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unpadded_vocab_size = unpadded_vocab_size
        self.z_loss = 0.0
        """Weight of the second output in what training differentiates; see `output_losses`."""

    def _postprocess(self, hidden_states: Tensor, labels: Tensor | None = None, **rest: Any) -> Tensor:
        """Take the place of GPTModel's output layer and loss, where there are labels."""
        if labels is None or not self.post_process:
            out: Tensor = super()._postprocess(hidden_states, labels=labels, **rest)
            return out
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        sequence_parallel = self.config.sequence_parallel
        return output_losses(hidden_states, weight, labels, self._unpadded_vocab_size, self.z_loss, sequence_parallel)
