"""Settings in, a Megatron-Core GPTModel out."""

import torch
from torch.nn import functional

from model import megatron

megatron.install()

from megatron.core.models.gpt import GPTModel  # noqa: E402 - after install
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec  # noqa: E402
from megatron.core.transformer.torch_norm import WrappedTorchNorm  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from model.modules import CausalAttention, Norm  # noqa: E402
from model.settings import LayoutSettings, ModelSettings  # noqa: E402

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def build_model(model: ModelSettings, layout: LayoutSettings, vocab_size: int, precision: str = "float32") -> GPTModel:
    """Return this rank's part of the model, on the CPU, with weights from the current seed.

    Args:
        model: Its shape.
        layout: Its split; the process groups must be initialised to it.
        vocab_size: Ids of the tokenizer; the embedding table is padded.
        precision: `float32` or `bf16`.
    """
    config = transformer_config(model, layout, precision)
    return GPTModel(
        config,
        _layer_spec(config),
        vocab_size=model.padded_vocab_size(vocab_size),
        max_sequence_length=model.seq_length,
        position_embedding_type="rope",
        rotary_base=model.rotary_base,
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
    )


def transformer_config(model: ModelSettings, layout: LayoutSettings, precision: str) -> TransformerConfig:
    """Return Megatron-Core's configuration for a model in a layout."""
    dtype = DTYPES[precision]
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        layernorm_epsilon=model.layernorm_epsilon,
        init_method_std=model.init_method_std,
        normalization="RMSNorm",
        add_bias_linear=False,
        gated_linear_unit=True,
        activation_func=functional.silu,
        bias_activation_fusion=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bf16=precision == "bf16",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=layout.tensor_model_parallel_size,
        use_cpu_initialization=True,  # the same weights for every tensor-parallel size
        gradient_accumulation_fusion=False,
        deterministic_mode=True,
        transformer_impl="local",
    )


def _layer_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    """Return Megatron-Core's decoder without Transformer Engine, with our attention and norm in it."""
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization=config.normalization)
    for layer in block.layer_specs:
        attention = layer.submodules.self_attention.submodules
        attention.core_attention = CausalAttention
        for submodules in (layer.submodules, attention):
            for name, module in vars(submodules).items():
                if module is WrappedTorchNorm:
                    setattr(submodules, name, Norm)
    block.layer_norm = Norm
    return block
