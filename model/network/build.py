"""Settings in, a Megatron-Core GPTModel out."""

import copy
from typing import Any

import torch
from torch.nn import functional

from model import megatron

megatron.install()

from megatron.core.models.common.embeddings import rope_utils  # noqa: E402 - after install
from megatron.core.models.gpt.gpt_layer_specs import (  # noqa: E402
    get_gpt_decoder_block_spec,
    get_gpt_mtp_block_spec,
)
from megatron.core.transformer.moe.moe_layer import MoELayer  # noqa: E402
from megatron.core.transformer.multi_token_prediction import MultiTokenPredictionBlockSubmodules  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402
from megatron.core.transformer.torch_norm import WrappedTorchNorm  # noqa: E402
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules  # noqa: E402
from megatron.core.transformer.transformer_config import MLATransformerConfig, TransformerConfig  # noqa: E402

from model import parallel  # noqa: E402
from model.families.family import ModelSettings  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.network import accelerated, gemm  # noqa: E402
from model.network.decoder import Decoder  # noqa: E402
from model.network.modules import CausalAttention, Norm, SwiGLU, rotate  # noqa: E402
from model.network.rotary import Rotary  # noqa: E402
from model.settings import PretrainSettings  # noqa: E402

gemm.install()
rope_utils.fused_apply_rotary_pos_emb = rotate  # Transformer Engine's place

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp8": torch.bfloat16}
"""Of the weights that matrices are multiplied with, by precision."""


def build_model(
    model: ModelSettings, layout: LayoutSettings, vocab_size: int, precision: str = "float32", draw: bool = True
) -> Decoder:
    """Return this rank's part of a model that has one run of layers a rank, on the CPU, drawn from the current seed.

    Args:
        model: Its shape.
        layout: Its split; the process groups must be initialised to it.
        vocab_size: Ids of the tokenizer; the embedding table is padded.
        precision: `float32`, `bf16` or `fp8`.
        draw: Whether the weights are drawn; what is not written takes no memory.
    """
    config = transformer_config(model, layout, precision)
    config.perform_initialization = draw
    return _chunk(config, model, vocab_size, None)


def build_chunks(model: ModelSettings, pretrain: PretrainSettings, vocab_size: int) -> list[Decoder]:
    """Return this rank's runs of layers for training, first to last; one, unless pipeline stages are interleaved.

    Args:
        model: The model's shape.
        pretrain: Layout, device, precision, dropout, and whether each layer is compiled.
        vocab_size: As for `build_model`.

    Raises:
        UserError: The precision needs what is not installed.
    """
    config = transformer_config(model, pretrain.layout, pretrain.precision, pretrain.dropout, pretrain.device)
    virtual = config.virtual_pipeline_model_parallel_size
    stages = [None] if virtual is None else range(virtual)
    chunks = [_chunk(config, model, vocab_size, stage).to(pretrain.device) for stage in stages]
    if pretrain.compile:
        # Every pass brings an expert another number of tokens, and a graph is of one shape: they stay as they are.
        name = "_forward_attention" if model.experts else "forward"
        for layer in (layer for chunk in chunks for layer in chunk.decoder.layers):
            setattr(layer, name, torch.compile(getattr(layer, name), dynamic=False))
    return chunks


def _chunk(config: TransformerConfig, model: ModelSettings, vocab_size: int, vp_stage: int | None) -> Decoder:
    layers = _layer_spec(config, model, vp_stage)
    chunk = Decoder(
        config,
        layers,
        vocab_size=model.padded_vocab_size(vocab_size),
        unpadded_vocab_size=vocab_size,
        max_sequence_length=model.seq_length,
        pre_process=parallel.is_first_stage(vp_stage),
        post_process=parallel.is_last_stage(vp_stage),
        position_embedding_type="rope",
        rotary_base=model.rotary_base,
        share_embeddings_and_output_weights=model.share_embeddings_and_output_weights,
        mtp_block_spec=_further_tokens_spec(config, layers, vp_stage),
        vp_stage=vp_stage,
    )
    chunk.rotary_pos_emb = Rotary(model.rotary_width, model.rotary_base, model.rope_scalings)
    for name, weight in chunk.named_parameters():
        if ".experts." in name:
            weight.allreduce = False  # Megatron-Core's mark of an expert, which it leaves out if experts are not split
    return chunk


def set_rotary_base(chunk: Decoder, base: float) -> None:
    """Give a model other rotary frequencies."""
    if base != chunk.rotary_base:
        chunk.rotary_base = base
        chunk.rotary_pos_emb = chunk.rotary_pos_emb.with_base(base)


def transformer_config(
    model: ModelSettings, layout: LayoutSettings, precision: str, dropout: float = 0.0, device: str = "cpu"
) -> TransformerConfig:
    """Return Megatron-Core's configuration for a model in a layout."""
    dtype = DTYPES[precision]
    shape = {**_shape(model), **_experts(model), **model.megatron()}
    kind = MLATransformerConfig if shape.get("multi_latent_attention") else TransformerConfig
    return kind(
        **shape,
        bias_activation_fusion=False,
        use_te_activation_func=shape["gated_linear_unit"],  # the activation module of the layer spec, here SwiGLU
        hidden_dropout=dropout,
        attention_dropout=dropout,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        use_cpu_initialization=True,  # the same weights for every tensor-parallel size
        deterministic_mode=True,
        **accelerated.options(device, precision),
        **_degrees(layout, dtype),
    )


def _shape(model: ModelSettings) -> dict[str, Any]:
    return {
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "ffn_hidden_size": model.ffn_hidden_size,
        "num_attention_heads": model.num_attention_heads,
        "num_query_groups": model.num_query_groups,
        "kv_channels": model.head_dim,
        "layernorm_epsilon": model.layernorm_epsilon,
        "init_method_std": model.init_method_std,
        "normalization": "RMSNorm",
        "add_bias_linear": False,
        "gated_linear_unit": True,
        "activation_func": functional.silu,
        "apply_rope_fusion": True,  # rope_utils' fused function, here rotate
    }


def _degrees(layout: LayoutSettings, dtype: torch.dtype) -> dict[str, Any]:
    virtual = layout.virtual_pipeline_model_parallel_size
    return {
        "tensor_model_parallel_size": layout.tensor_model_parallel_size,
        "sequence_parallel": layout.sequence_parallel,
        "pipeline_model_parallel_size": layout.pipeline_model_parallel_size,
        "virtual_pipeline_model_parallel_size": virtual if virtual > 1 else None,
        "pipeline_dtype": dtype,
        "batch_p2p_comm": False,  # gloo has no batched sends
        "context_parallel_size": layout.context_parallel_size,
        "expert_model_parallel_size": layout.expert_model_parallel_size,
        "expert_tensor_parallel_size": 1,  # experts are whole; gloo cannot gather tensors of unequal size
    }


def _experts(model: ModelSettings) -> dict[str, Any]:
    if model.experts is None:
        return {}
    return {
        "num_moe_experts": model.experts.num_experts,
        "moe_router_topk": model.experts.router_topk,
        "moe_ffn_hidden_size": model.ffn_hidden_size,
        "moe_router_load_balancing_type": "aux_loss",
        "moe_aux_loss_coeff": model.experts.aux_loss_coefficient,
        "moe_router_dtype": "fp32",
        "moe_token_dispatcher_type": "alltoall",
    }


def _layer_spec(config: TransformerConfig, model: ModelSettings, vp_stage: int | None) -> TransformerBlockSubmodules:
    """Return Megatron-Core's decoder with our attention and activation in it, our norm if need be, and the family."""
    with_engine = config.transformer_impl == "transformer_engine"
    block = get_gpt_decoder_block_spec(
        config, use_transformer_engine=with_engine, normalization=config.normalization, vp_stage=vp_stage
    )
    block.layer_specs = [copy.deepcopy(layer) for layer in block.layer_specs]  # layers of a kind are one object
    for layer in block.layer_specs:
        attention = layer.submodules.self_attention.submodules
        attention.core_attention = CausalAttention
        if config.gated_linear_unit:
            _mlp(layer.submodules.mlp).submodules.activation_func = SwiGLU
        for submodules in (layer.submodules, attention):
            for name, module in vars(submodules).items():
                if module is WrappedTorchNorm:
                    setattr(submodules, name, Norm)
        model.adapt(layer)
    if not with_engine:
        block.layer_norm = Norm
    return block


def _further_tokens_spec(
    config: TransformerConfig, layers: TransformerBlockSubmodules, vp_stage: int | None
) -> MultiTokenPredictionBlockSubmodules | None:
    """Return what predicts tokens beyond the next, from a layer like the last of the model; None if nothing does."""
    if config.mtp_num_layers is None:
        return None
    block = get_gpt_mtp_block_spec(config, layers, use_transformer_engine=False, vp_stage=vp_stage)
    for layer in block.layer_specs if block else []:
        layer.submodules.enorm = layer.submodules.hnorm = layer.submodules.layer_norm = Norm
    return block


def _mlp(spec: ModuleSpec) -> ModuleSpec:
    return spec.submodules.experts if spec.module is MoELayer else spec
