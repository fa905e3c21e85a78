"""Small models of every family, one row a variant: every test of families runs every row."""

import json
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from model.convert.config import Ids, model_class, to_config
from model.families.family import ModelSettings

VOCAB_SIZE = 101
"""Padded to 128."""
SHAPE: dict[str, Any] = {
    "num_layers": 4,
    "hidden_size": 64,
    "ffn_hidden_size": 96,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "seq_length": 48,
}
ROWS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "llama tied": {"family": "llama", "share_embeddings_and_output_weights": True},
    "llama wide heads": {"family": "llama", "kv_channels": 32, "num_query_groups": 4},
    "mixtral": {"family": "mixtral", "moe": {"num_experts": 4, "router_topk": 2, "aux_loss_coefficient": 0.0}},
}
"""What is other than in `SHAPE`. Experts are not balanced, as `transformers` leaves that out of its loss."""


def settings(row: str) -> ModelSettings:
    """Return the settings of a row."""
    return ModelSettings.model_validate_json(json.dumps(SHAPE | ROWS[row]))


def transformers_model(model: ModelSettings, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return a random model whose logits are about 5, and in which no weight, bias or buffer is idle."""
    torch.manual_seed(7)
    network: Any = model_class(model)(to_config(model, Ids(VOCAB_SIZE, 0, 1)))
    for name, weight in network.state_dict().items():
        spread = 0.3 * (16 / weight.shape[-1]) ** 0.5 if weight.dim() > 1 else 0.2
        weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, spread)
    made: PreTrainedModel = network.to(dtype).eval()
    return made


def on_disk(network: PreTrainedModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors by the names of modules as by the names in a checkpoint: experts one by one."""
    converted: dict[str, Tensor] = revert_weight_conversion(network, tensors)
    return converted
