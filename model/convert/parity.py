"""The gate that compares an exported model with the trained one."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.convert.routing import one_choice_of_experts
from model.data.batches import Batch
from model.network.decoder import Decoder


@dataclass(frozen=True)
class Parity:
    """How far the exported model is from the trained one, in float32 on validation text."""

    tokens: int
    """Tokens compared."""
    max_abs_logit: float
    """Largest logit, for scale."""
    max_abs_logit_difference: float
    """Largest difference of any logit, or of what a router's scores are short of the choice of experts."""
    megatron_loss: float
    """Mean loss of the trained model, nats per token."""
    transformers_loss: float
    """Mean loss of the exported model, nats per token."""

    @property
    def loss_difference(self) -> float:
        """Absolute difference of the losses."""
        return abs(self.megatron_loss - self.transformers_loss)

    def as_dict(self) -> dict[str, float]:
        """Return all values by name."""
        return {**asdict(self), "loss_difference": self.loss_difference}

    def exceeded(self, limits: dict[str, float]) -> list[str]:
        """Return which values are above their limits, or are no numbers, for people."""
        values = self.as_dict()
        return [
            f"{name} is {values[name]:.3g}, the limit is {limit:.3g}"
            for name, limit in limits.items()
            if not values[name] <= limit
        ]


@torch.no_grad()
def compare(megatron: Decoder, exported: PreTrainedModel, batches: list[Batch]) -> Parity:
    """Return the distance of two models over batches."""
    largest = difference = 0.0
    nats = {"megatron": 0.0, "transformers": 0.0}
    tokens = 0
    with one_choice_of_experts(megatron, exported) as shortfalls:
        for batch in batches:
            ours = megatron(batch.tokens, batch.positions, None)[..., : exported.config.vocab_size]
            theirs = exported(batch.tokens).logits
            largest = max(largest, ours.abs().max().item())
            difference = max(difference, (ours - theirs).abs().max().item(), *shortfalls)
            losses, _ = megatron(batch.tokens, batch.positions, None, labels=batch.labels)
            nats["megatron"] += losses.double().sum().item()
            nats["transformers"] += _loss_sum(theirs, batch.labels)
            tokens += batch.labels.numel()
    return Parity(tokens, largest, difference, nats["megatron"] / tokens, nats["transformers"] / tokens)


def _loss_sum(logits: Tensor, labels: Tensor) -> float:
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.double().sum().item()


@torch.no_grad()
def first_difference(megatron: Decoder, exported: PreTrainedModel, batch: Batch, limit: float) -> str:
    """Return the first point of the forward pass where the models differ by more than `limit`, with the difference."""
    ours: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    inner: Any = exported.base_model
    _record(ours, {"the embedding": megatron.embedding, **_layers(megatron.decoder.layers)}, sequence_first=True)
    _record(theirs, {"the embedding": exported.get_input_embeddings(), **_layers(inner.layers)}, sequence_first=False)
    with one_choice_of_experts(megatron, exported):
        megatron(batch.tokens, batch.positions, None)
        exported(batch.tokens)
    for name, value in ours.items():
        difference = (value - theirs[name]).abs().max().item()
        if not difference <= limit:
            return f"{name} (difference {difference:.3g})"
    return "the final norm or the output projection"


def _layers(layers: Any) -> dict[str, torch.nn.Module]:
    return {f"layer {index}": layer for index, layer in enumerate(layers)}


def _record(into: dict[str, Tensor], modules: dict[str, torch.nn.Module], sequence_first: bool) -> None:
    """Have each module note its output, as `[b, s, h]`."""

    def note(name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            into[name] = value.transpose(0, 1) if sequence_first else value

        return hook

    for name, module in modules.items():
        module.register_forward_hook(note(name))
