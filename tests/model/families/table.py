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
LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.5,
    "high_freq_factor": 6.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 12}
EXPERTS = {"num_experts": 4, "router_topk": 2, "ffn_hidden_size": 32, "aux_loss_coefficient": 0.0}
DEEPSEEK: dict[str, Any] = {
    "num_query_groups": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_head_dim": 16,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 12,
}
DEEPSEEK_MOE: dict[str, Any] = {
    "num_experts": 8,
    "router_topk": 3,
    "ffn_hidden_size": 32,
    "num_shared_experts": 2,
    "num_dense_layers": 1,
    "router_topk_scaling_factor": 2.5,
    "aux_loss_coefficient": 0.0,
}
GROUPS = {"router_num_groups": 4, "router_group_topk": 3}
MSCALES = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 0.7,
    "mscale_all_dim": 1.0,
}
TYPES = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
ROWS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama"},
    "llama tied linear": {"family": "llama", "share_embeddings_and_output_weights": True, "rope_scaling": LINEAR},
    "llama wide llama3": {"family": "llama", "kv_channels": 32, "num_query_groups": 4, "rope_scaling": LLAMA3},
    "llama yarn": {"family": "llama", "rope_scaling": YARN},
    "llama attention biases": {"family": "llama", "attention_bias": True},
    "llama mlp biases": {"family": "llama", "mlp_bias": True},
    "mistral": {"family": "mistral", "sliding_window": 7, "kv_channels": 32},
    "qwen2": {"family": "qwen2", "share_embeddings_and_output_weights": True},
    "qwen2 windows": {"family": "qwen2", "sliding_window": 5, "max_window_layers": 2},
    "qwen3": {"family": "qwen3", "kv_channels": 32, "share_embeddings_and_output_weights": True},
    "qwen3 windows": {"family": "qwen3", "sliding_window": 5, "max_window_layers": 1, "rope_scaling": YARN},
    "qwen3_moe": {"family": "qwen3_moe", "kv_channels": 32, "moe": EXPERTS},
    "qwen3_moe sparse": {
        "family": "qwen3_moe",
        "sliding_window": 9,
        "moe": {**EXPERTS, "norm_topk_prob": False, "decoder_sparse_step": 2, "mlp_only_layers": [1]},
    },
    "mixtral": {"family": "mixtral", "moe": {"num_experts": 4, "router_topk": 2, "aux_loss_coefficient": 0.0}},
    "deepseek_v2": {"family": "deepseek_v2", **DEEPSEEK, "moe": DEEPSEEK_MOE, "layernorm_epsilon": 1e-4},
    "deepseek_v2 groups": {
        **{"family": "deepseek_v2", **DEEPSEEK, "q_lora_rank": None},
        **{"rope_scaling": MSCALES, "moe": DEEPSEEK_MOE | GROUPS},
    },
    "deepseek_v3": {"family": "deepseek_v3", **DEEPSEEK, "moe": DEEPSEEK_MOE},
    "deepseek_v3 groups": {
        **{"family": "deepseek_v3", **DEEPSEEK, "q_lora_rank": None},
        **{"rope_scaling": MSCALES, "moe": DEEPSEEK_MOE | GROUPS},
    },
    "olmo2": {"family": "olmo2", "num_query_groups": 4, "layernorm_epsilon": 1e-3},
    "olmo2 wide heads": {"family": "olmo2", "kv_channels": 32, "share_embeddings_and_output_weights": True},
    "olmo3": {"family": "olmo3", "sliding_window": 7, "rotary_base": 10000.0},
    "olmo3 yarn": {"family": "olmo3", "sliding_window": 9, "rope_scaling": YARN, "layer_types": TYPES},
    "gpt_neox": {"family": "gpt_neox", "num_query_groups": 4, "layernorm_epsilon": 1e-3},
    "gpt_neox serial": {
        **{"family": "gpt_neox", "num_query_groups": 4, "use_parallel_residual": False, "rotary_percent": 0.5},
        **{"attention_bias": False, "activation": "gelu_fast", "share_embeddings_and_output_weights": True},
    },
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
