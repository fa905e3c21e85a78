"""LlamaForCausalLM: the decoder as `transformers` configures it, and its weights."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import LlamaConfig

from model.convert.weight_map import Weight, query_key_value, same, stacked, vocabulary
from model.settings import ModelSettings


def llama_config(model: ModelSettings, vocab_size: int, end_of_document: int, pad: int) -> LlamaConfig:
    """Return the `transformers` configuration of the same model. The end-of-document id opens and ends a text."""
    shape = decoder_shape(model, vocab_size, end_of_document, pad)
    return LlamaConfig(**shape, architectures=["LlamaForCausalLM"])


def decoder_shape(model: ModelSettings, vocab_size: int, end_of_document: int, pad: int) -> dict[str, Any]:
    """Return what the configurations of Llama and of its descendants have in common."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.hidden_size // model.num_attention_heads,
        "max_position_embeddings": model.seq_length,
        "rms_norm_eps": model.layernorm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_base},
        "tie_word_embeddings": model.share_embeddings_and_output_weights,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "pad_token_id": pad,
        "dtype": torch.float32,
    }


def llama_weights(model: ModelSettings, vocab_size: int) -> Iterator[Weight]:
    """Yield every weight of the model."""
    yield from outer_weights(model, vocab_size)
    for layer in range(model.num_layers):
        megatron, name = f"decoder.layers.{layer}.", f"model.layers.{layer}."
        yield from attention_weights(megatron, name, model)
        yield stacked(megatron + "mlp.linear_fc1.weight", (name + "mlp.gate_proj.weight", name + "mlp.up_proj.weight"))
        yield same(megatron + "mlp.linear_fc2.weight", name + "mlp.down_proj.weight")


def outer_weights(model: ModelSettings, vocab_size: int) -> Iterator[Weight]:
    """Yield the weights outside the layers."""
    yield vocabulary("embedding.word_embeddings.weight", "model.embed_tokens.weight", model, vocab_size)
    if not model.share_embeddings_and_output_weights:
        yield vocabulary("output_layer.weight", "lm_head.weight", model, vocab_size)
    yield same("decoder.final_layernorm.weight", "model.norm.weight")


def attention_weights(megatron: str, name: str, model: ModelSettings) -> Iterator[Weight]:
    """Yield the norms and the attention of a layer.

    Args:
        megatron: Prefix of the layer's weights in Megatron-Core.
        name: Their prefix in `transformers`.
        model: The model's shape.
    """
    yield same(megatron + "input_layernorm.weight", name + "input_layernorm.weight")
    yield same(megatron + "pre_mlp_layernorm.weight", name + "post_attention_layernorm.weight")
    name += "self_attn."
    projections = (name + "q_proj.weight", name + "k_proj.weight", name + "v_proj.weight")
    yield query_key_value(megatron + "self_attention.linear_qkv.weight", projections, model)
    yield same(megatron + "self_attention.linear_proj.weight", name + "o_proj.weight")
