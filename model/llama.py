"""The weights of Megatron-Core's GPTModel as `transformers` names and lays them out (LlamaForCausalLM)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import LlamaConfig

from model.settings import ModelSettings


def llama_config(model: ModelSettings, vocab_size: int, end_of_document: int, pad: int) -> LlamaConfig:
    """Return the `transformers` configuration of the same model. The end-of-document id opens and ends a text."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.ffn_hidden_size,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.num_query_groups,
        max_position_embeddings=model.seq_length,
        rms_norm_eps=model.layernorm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": model.rotary_base},
        tie_word_embeddings=model.share_embeddings_and_output_weights,
        bos_token_id=end_of_document,
        eos_token_id=end_of_document,
        pad_token_id=pad,
        dtype=torch.float32,
        architectures=["LlamaForCausalLM"],
    )


def to_llama(weights: dict[str, Tensor], model: ModelSettings, vocab_size: int) -> Iterator[tuple[str, Tensor]]:
    """Yield every weight of LlamaForCausalLM from unsplit Megatron-Core weights.

    Args:
        weights: Megatron-Core's state dict at tensor-parallel size 1.
        model: The model's shape.
        vocab_size: Rows of the tables to keep; the padding after them is cut off.
    """
    yield "model.embed_tokens.weight", weights["embedding.word_embeddings.weight"][:vocab_size]
    if not model.share_embeddings_and_output_weights:
        yield "lm_head.weight", weights["output_layer.weight"][:vocab_size]
    yield "model.norm.weight", weights["decoder.final_layernorm.weight"]
    for layer in range(model.num_layers):
        theirs, ours = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        yield ours + "input_layernorm.weight", weights[theirs + "input_layernorm.weight"]
        yield ours + "post_attention_layernorm.weight", weights[theirs + "pre_mlp_layernorm.weight"]
        query, key, value = split_qkv(weights[theirs + "self_attention.linear_qkv.weight"], model)
        yield ours + "self_attn.q_proj.weight", query
        yield ours + "self_attn.k_proj.weight", key
        yield ours + "self_attn.v_proj.weight", value
        yield ours + "self_attn.o_proj.weight", weights[theirs + "self_attention.linear_proj.weight"]
        gate, up = weights[theirs + "mlp.linear_fc1.weight"].chunk(2)
        yield ours + "mlp.gate_proj.weight", gate
        yield ours + "mlp.up_proj.weight", up
        yield ours + "mlp.down_proj.weight", weights[theirs + "mlp.linear_fc2.weight"]


def split_qkv(fused: Tensor, model: ModelSettings) -> tuple[Tensor, Tensor, Tensor]:
    """Split Megatron-Core's fused projection, which holds for each query group its query heads, its key, its value.

    Args:
        fused: `[(heads + 2 * groups) * d, h]`.
        model: Heads, groups and width.

    Returns:
        Query `[heads * d, h]`, key and value `[groups * d, h]`.
    """
    head = model.hidden_size // model.num_attention_heads
    heads_per_group = model.num_attention_heads // model.num_query_groups
    grouped = fused.view(model.num_query_groups, (heads_per_group + 2) * head, model.hidden_size)
    query, key, value = grouped.split([heads_per_group * head, head, head], dim=1)
    width = model.hidden_size
    return query.reshape(-1, width), key.reshape(-1, width), value.reshape(-1, width)
