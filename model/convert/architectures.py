"""The `transformers` architectures that a model can be imported from and exported to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from transformers import LlamaForCausalLM, MixtralForCausalLM, PreTrainedConfig, PreTrainedModel

from model.convert.llama import llama_config, llama_weights
from model.convert.mixtral import mixtral_config, mixtral_weights
from model.convert.weight_map import Weight
from model.settings import ModelSettings


@dataclass(frozen=True)
class Architecture:
    """What `transformers` calls a model, and how it writes one down."""

    model_class: type[PreTrainedModel]
    """The model with its output layer."""
    config: Callable[[ModelSettings, int, int, int], PreTrainedConfig]
    """From shape, vocabulary size, end-of-document id and padding id, the configuration."""
    weights: Callable[[ModelSettings, int], Iterator[Weight]]
    """From shape and vocabulary size, the correspondence of the weights."""


_LLAMA = Architecture(LlamaForCausalLM, llama_config, llama_weights)
_MIXTRAL = Architecture(MixtralForCausalLM, mixtral_config, mixtral_weights)


def architecture(model: ModelSettings) -> Architecture:
    """Return the architecture of a model."""
    return _MIXTRAL if model.moe else _LLAMA
