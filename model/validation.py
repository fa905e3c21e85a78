"""Loss and bits per byte on validation text."""

import math
from collections.abc import Callable, Iterator

import torch

from model.data.batches import Batch, ValidationData
from model.scoring import Scores


class Score:
    """Sums of loss and bytes over tokens, from which loss and bits per byte follow.

    Bits per byte are the nats of the tokens that stand for text, over the bytes of that text and ln 2; special
    tokens count in neither, so that tokenizers can be compared (nanochat, `evaluate_bpb`).

    Args:
        token_bytes: Bytes of text behind each id, `[vocabulary]` float64.
    """

    def __init__(self, token_bytes: torch.Tensor) -> None:
        self._token_bytes = token_bytes
        self._nats = self._tokens = self._text_nats = self._text_bytes = 0.0

    def add(self, labels: torch.Tensor, losses: torch.Tensor) -> None:
        """Add the labels of a batch and their losses in nats, both `[b, s]`."""
        sizes = self._token_bytes[labels.cpu()]
        nats = losses.double().cpu()
        self._nats += nats.sum().item()
        self._tokens += nats.numel()
        self._text_nats += nats[sizes > 0].sum().item()
        self._text_bytes += sizes.sum().item()

    def merge(self, other: "Score") -> None:
        """Add the sums of another score."""
        self._nats += other._nats
        self._tokens += other._tokens
        self._text_nats += other._text_nats
        self._text_bytes += other._text_bytes

    def values(self) -> dict[str, float]:
        """Return `loss` in nats per token and `bits_per_byte`."""
        return {
            "loss": self._nats / self._tokens,
            "bits_per_byte": self._text_nats / self._text_bytes / math.log(2),
        }


def validate(
    scores: Callable[[Iterator[Batch]], Iterator[Scores]],
    data: dict[str, ValidationData],
    token_bytes: torch.Tensor,
    batch_size: int,
    device: torch.device,
) -> dict[str, object]:
    """Return loss and bits per byte over all domains, and of each under `domains`. Every rank calls this.

    Args:
        scores: The model.
        data: Windows by domain.
        token_bytes: Bytes of text behind each id, `[vocabulary]` float64.
        batch_size: Windows in one forward pass.
        device: Of the batches.
    """
    total, domains = Score(token_bytes), {}
    for domain in sorted(data):
        score = Score(token_bytes)
        for labels, losses, _ in scores(data[domain].batches(batch_size, device)):
            score.add(labels, losses)
        domains[domain] = score.values()
        total.merge(score)
    return {**total.values(), "domains": domains}
