"""Rotary positions as llama.cpp's metadata say them."""

import math
from typing import Any

import torch
from gguf import GGUFWriter, RopeScalingType
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from stages.errors import UserError

KNOWN = ("default", "linear", "llama3", "yarn")


def parameters(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the rope parameters, those of the full attention layers if the layers differ."""
    given: dict[str, Any] = config.rope_parameters
    full: dict[str, Any] = given.get("full_attention", given)
    return full


def write(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write base and scaling.

    Raises:
        UserError: llama.cpp does not have the scaling; the message names it.
    """
    rope = parameters(config)
    kind = rope["rope_type"]
    if kind not in KNOWN:
        raise UserError(f"config.json has rope_type = {kind}, which is written to GGUF for none but {KNOWN}")
    writer.add_rope_freq_base(rope["rope_theta"])
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        _write_yarn(writer, config)


def frequency_factors(config: PreTrainedConfig) -> Tensor | None:
    """Return by how much llama3 scaling divides each frequency `[d / 2]`, or None without it.

    llama.cpp has no such scaling, but divides by the tensor `rope_freqs` where architecture llama has one.
    """
    rope = parameters(config)
    if rope["rope_type"] != "llama3":
        return None
    scaled, attention_factor = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    assert attention_factor == 1
    size = 2 * len(scaled)
    unscaled: Tensor = 1 / rope["rope_theta"] ** (torch.arange(0, size, 2) / size)
    return unscaled / scaled


def _write_yarn(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    rope = parameters(config)
    fixed = {"truncate": True, "beta_fast": 32, "beta_slow": 1}
    if other := {key: rope[key] for key, value in fixed.items() if rope.get(key) not in (None, value)}:
        takes = {key: fixed[key] for key in other}
        raise UserError(f"config.json has yarn with {other}, for which llama.cpp takes {takes}, whatever the file says")
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if hasattr(config, "kv_lora_rank"):
        writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])  # by agreement; llama.cpp divides again
    else:
        papers = 1 + 0.1 * math.log(rope["factor"])  # with which llama.cpp multiplies by itself
        writer.add_rope_scaling_attn_factors(_attention_factor(config) / papers)


def _attention_factor(config: PreTrainedConfig) -> float:
    """Return what YaRN multiplies the rotated queries and keys with."""
    layers = {"layer_type": "full_attention"} if "full_attention" in config.rope_parameters else {}
    _, factor = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"), **layers)
    return float(factor)
