"""The model: Megatron-Core's GPTModel with our loss."""

from typing import Any

from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402 - after install

from model.loss import token_losses  # noqa: E402


class Decoder(GPTModel):
    """GPTModel whose padding rows of the vocabulary take no share of the softmax.

    Megatron-Core trains them along, so that its loss is not the loss of the exported model, which has none.
    """

    def __init__(self, *args: Any, unpadded_vocab_size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unpadded_vocab_size = unpadded_vocab_size

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return cross entropy and squared log-denominator `[2, b, s]` of labels `[b, s]`, logits `[s, b, v / tp]`."""
        return token_losses(logits, labels.t(), self._unpadded_vocab_size).transpose(1, 2).contiguous()
