"""The model: Megatron-Core's GPTModel with our output layer and loss."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402 - after install
from megatron.core.transformer.multi_token_prediction import roll_tensor  # noqa: E402

from model.network.loss import output_losses  # noqa: E402


class Decoder(GPTModel):
    """GPTModel whose padding rows of the vocabulary take no share of the softmax.

    Megatron-Core trains them along, so that its loss is not the loss of the exported model, which has none.

    Given labels `[b, s]`, the last pipeline stage returns `[2, b, s]` float32: cross entropy in nats, and the squared
    log-denominator of the softmax. Without labels it returns logits `[b, s, v / tensor-parallel size]` with padding.

    With multi-token prediction (Liu et al. 2024, DeepSeek-V3, section 2.2) there follows in training the cross entropy
    of each further token, `[2 + depth, b, s]`: 0 where the sequence ends before that token, so that the mean is over
    all, as in equation 24.

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
        """Take the place of GPTModel's output layer and loss."""
        if not self.post_process:
            return hidden_states
        tied = self.share_embeddings_and_output_weights
        weight = self.shared_embedding_or_output_weight() if tied else self.output_layer.weight
        if labels is None:
            logits, _ = self.output_layer(hidden_states, weight=weight)
            scores: Tensor = logits.transpose(0, 1).contiguous()
            return scores
        given = {"vocab_size": self._unpadded_vocab_size, "sequence_parallel": self.config.sequence_parallel}
        losses = output_losses(hidden_states, weight, labels, z_loss=self.z_loss, **given)
        if self.training and self.mtp_process:
            further = self._further_tokens(hidden_states, labels, **rest)
            of_further = [
                output_losses(hidden, weight, then, labelled=where, **given)[0] for hidden, then, where in further
            ]
            losses = torch.cat((losses, torch.stack(of_further)))
        return losses

    def _further_tokens(self, hidden: Tensor, labels: Tensor, **rest: Any) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield for each further token the states that predict it, its labels, and where there are any."""
        names = ("input_ids", "position_ids", "attention_mask", "rotary_pos_emb")
        given = {name: rest[name] for name in names}
        states = self.mtp(hidden_states=hidden, embedding=self.embedding, **given)
        labelled = torch.ones_like(labels)
        for state in states.split(len(hidden))[1:]:  # the first is the main model's
            labels, _ = roll_tensor(labels, cp_group=self.cp_group)
            labelled, _ = roll_tensor(labelled, cp_group=self.cp_group)
            yield state, labels, labelled.bool()
