"""Settings in, a Megatron-Core GPTModel out."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model import megatron

megatron.install()

from megatron.core.models.common.embeddings import rope_utils  # noqa: E402 - after install
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_decoder_block_spec  # noqa: E402
from megatron.core.transformer.torch_norm import WrappedTorchNorm  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402

from model import gemm, parallel  # noqa: E402
from model.modules import CausalAttention, Norm, SwiGLU, rotate  # noqa: E402
from model.settings import LayoutSettings, ModelSettings  # noqa: E402

gemm.install()
rope_utils.fused_apply_rotary_pos_emb = rotate  # Transformer Engine's place

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Decoder(GPTModel):
    """GPTModel whose padding rows of the vocabulary take no share of the softmax.

    Megatron-Core trains them along, so that its loss is not the loss of the exported model, which has none.
    """

    def __init__(self, *args: Any, unpadded_vocab_size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unpadded_vocab_size = unpadded_vocab_size

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the losses `[b, s]` of labels `[b, s]` under logits `[s, b, v / tensor-parallel size]`."""
        first = parallel.tensor_parallel_rank() * logits.shape[-1]
        padding = max(0, first + logits.shape[-1] - max(first, self._unpadded_vocab_size))
        if padding:
            hidden = torch.arange(logits.shape[-1], device=logits.device) >= logits.shape[-1] - padding
            logits = logits.masked_fill(hidden, -torch.inf)
        losses: Tensor = super().compute_language_model_loss(labels, logits)
        return losses


def build_model(model: ModelSettings, layout: LayoutSettings, vocab_size: int, precision: str = "float32") -> Decoder:
    """Return this rank's part of the model, on the CPU, with weights from the current seed.

    Args:
        model: Its shape.
        layout: Its split; the process groups must be initialised to it.
        vocab_size: Ids of the tokenizer; the embedding table is padded.
        precision: `float32` or `bf16`.
    """
    config = transformer_config(model, layout, precision)
    return Decoder(
        config,
        _layer_spec(config),
        vocab_size=model.padded_vocab_size(vocab_size),
        unpadded_vocab_size=vocab_size,
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
        use_te_activation_func=True,  # the activation module of the layer spec, here SwiGLU
        apply_rope_fusion=True,  # rope_utils' fused function, here rotate
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
    """Return Megatron-Core's decoder without Transformer Engine, with our attention, activation and norm in it."""
    block = get_gpt_decoder_block_spec(config, use_transformer_engine=False, normalization=config.normalization)
    for layer in block.layer_specs:
        attention = layer.submodules.self_attention.submodules
        attention.core_attention = CausalAttention
        layer.submodules.mlp.submodules.activation_func = SwiGLU
        for submodules in (layer.submodules, attention):
            for name, module in vars(submodules).items():
                if module is WrappedTorchNorm:
                    setattr(submodules, name, Norm)
    block.layer_norm = Norm
    return block
