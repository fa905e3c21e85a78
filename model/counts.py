"""How many weights a model has, counted on the class of `transformers` without allocating any."""

from functools import lru_cache
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM

from model.convert.config import Ids, to_config
from model.families.family import ModelSettings


class Counts(NamedTuple):
    """Weights of a model without padding of its vocabulary."""

    total: int
    """All, each once."""
    active: int
    """Those that one token meets: of a mixture, the experts that it visits; all of the embedding table."""
    matrices: int
    """Those of `active` in matrices that are multiplied: the output layer, not the embedding table."""


def counts(model: ModelSettings, vocab_size: int) -> Counts:
    """Return the numbers of weights of a model for a tokenizer of `vocab_size` ids."""
    return _counts(model.model_dump_json(), vocab_size)


@lru_cache
def _counts(settings: str, vocab_size: int) -> Counts:
    model = ModelSettings.model_validate_json(settings)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(to_config(model, Ids(vocab_size, 0, 0)))
    table = network.get_input_embeddings().weight
    total = active = matrices = 0
    for name, weight in network.named_parameters():
        met = weight.numel()
        if model.experts and "experts" in name.split("."):
            met = met // model.experts.num_experts * model.experts.router_topk
        total += weight.numel()
        active += met
        matrices += met if weight.dim() > 1 and weight is not table else 0
    if model.share_embeddings_and_output_weights:
        matrices += table.numel()
    return Counts(total, active, matrices)
