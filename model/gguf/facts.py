"""What llama.cpp must know of a model beside its tensors, as metadata; one function a kind of model."""

from gguf import MODEL_ARCH, ExpertGatingFuncType, GGUFWriter
from transformers import PreTrainedConfig

from model.gguf import rope


def write(writer: GGUFWriter, config: PreTrainedConfig, arch: MODEL_ARCH) -> None:
    """Write what every architecture has."""
    writer.add_context_length(context_length(config, arch))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    rope.write(writer, config)


def context_length(config: PreTrainedConfig, arch: MODEL_ARCH) -> int:
    """Return for how many positions llama.cpp's model is ours: without windows, for those in the shortest one."""
    longest = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    if window is None or "sliding_attention" not in kinds or arch == MODEL_ARCH.OLMO2:
        return longest
    return min(longest, int(window))


def head_size(config: PreTrainedConfig) -> int:
    """Return the width of a head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def gated(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write what a model with RMSNorm and a gated MLP adds."""
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head = head_size(config)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)


def mixtral(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write what Mixtral adds."""
    gated(writer, config)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


def qwen3_moe(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write what Qwen3-MoE adds."""
    gated(writer, config)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def olmo(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write what OLMo 2 and 3 add."""
    gated(writer, config)
    kinds = getattr(config, "layer_types", None) or []
    if "sliding_attention" in kinds:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in kinds])


def deepseek(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write what DeepSeek-V2 and V3 add."""
    latent, rotated = config.kv_lora_rank, config.qk_rope_head_dim
    writer.add_head_count_kv(1)  # keys are put into the queries, so that all heads share one latent
    writer.add_key_length(latent + rotated)
    writer.add_value_length(latent)
    writer.add_key_length_mla(config.qk_nope_head_dim + rotated)
    writer.add_value_length_mla(config.v_head_dim)
    writer.add_rope_dimension_count(rotated)
    writer.add_kv_lora_rank(latent)
    writer.add_q_lora_rank(config.q_lora_rank or 0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    _deepseek_experts(writer, config)


def _deepseek_experts(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    third = config.model_type == "deepseek_v3"
    writer.add_leading_dense_block_count(config.first_k_dense_replace)
    writer.add_expert_count(config.n_routed_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    writer.add_expert_weights_norm(third and config.norm_topk_prob)  # DeepseekV2ForCausalLM never does
    writer.add_expert_gating_func(ExpertGatingFuncType.SIGMOID if third else ExpertGatingFuncType.SOFTMAX)
    if third and config.topk_group < config.n_group:
        writer.add_expert_group_count(config.n_group)
        writer.add_expert_group_used_count(config.topk_group)


def neox(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    """Write what GPT-NeoX adds."""
    share = rope.parameters(config).get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(config.hidden_size // config.num_attention_heads * share))
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)
