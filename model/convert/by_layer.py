"""A trained model of which one layer is in memory at a time, so that one larger than the memory can run."""

from typing import Any

import torch

from model.convert import unsplit
from model.convert.to_transformers import Export
from model.families.family import ModelSettings
from model.network.build import build_model
from model.network.decoder import Decoder

_LAYERS = "decoder.layers."


def build(weights: Export, model: ModelSettings, vocab_size: int) -> Decoder:
    """Return the model in float32, its weights rounded as they are exported; a layer's are read when its turn comes.

    The tables of the vocabulary stay, since the first and the last step may share one. Megatron-Core itself reads no
    part of a checkpoint's tensor in one process, so they are read as for the export, but go through no mapping.

    Args:
        weights: What is exported.
        model: Its settings.
        vocab_size: Its ids.
    """
    decoder: Decoder = build_model(model, unsplit.ONE, vocab_size, draw=False).eval()
    for index, layer in enumerate(decoder.decoder.layers):
        turn = _Turn(weights, f"{_LAYERS}{index}.")
        turn.drop(layer)
        layer.register_forward_pre_hook(turn.take)
        layer.register_forward_hook(turn.drop)
    own = decoder.state_dict()
    for name in weights.dtypes:
        if not name.startswith(_LAYERS):
            own[name].copy_(weights.read(name))
    return decoder


class _Turn:
    """What a layer does before and after its turn."""

    def __init__(self, weights: Export, prefix: str) -> None:
        self._weights = weights
        self._prefix = prefix

    def take(self, layer: torch.nn.Module, _inputs: Any) -> None:
        """Read the layer's weights."""
        own = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
        for name in self._weights.dtypes:
            if name.startswith(self._prefix):
                own[name.removeprefix(self._prefix)].data = self._weights.read(name).float()

    def drop(self, layer: torch.nn.Module, _inputs: Any = None, _output: Any = None) -> None:
        """Forget them."""
        for weight in layer.parameters():
            weight.data = torch.empty(0)
