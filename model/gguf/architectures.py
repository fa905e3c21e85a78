"""The architectures of llama.cpp that the families are written as, and what each of them lacks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gguf import MODEL_ARCH, ExpertGatingFuncType, GGUFWriter
from transformers import PreTrainedConfig

from model.gguf import rope
from model.gguf.folder import Folder, tied
from model.gguf.tensors import (
    Make,
    Target,
    constant,
    in_layer,
    interleaved,
    latent_keys,
    latent_values,
    unmixed,
    with_experts_together,
)
from stages.errors import UserError

_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_ATTENTION = {f"self_attn.{part}_proj": f"attn_{part}" for part in "qkv"} | {"self_attn.o_proj": "attn_output"}
_GATED_MLP = {f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")}
_PRE_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_POST_NORMS = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_EXPERTS = {f"mlp.experts.{part}_proj": f"ffn_{part}_exps" for part in ("gate", "up", "down")}
_MIXTRAL_EXPERTS = {
    "block_sparse_moe.gate": "ffn_gate_inp",
    "block_sparse_moe.experts.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.w2": "ffn_down_exps",
    "block_sparse_moe.experts.w3": "ffn_up_exps",
}
_LATENT_ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm",
    "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
    "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output",
}
_SHARED_EXPERTS = {f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")}
_LLAMA = _OUTER | _ATTENTION | _GATED_MLP | _PRE_NORMS
_QKV_BIASES = frozenset({"attn_q", "attn_k", "attn_v"})
_LLAMA_BIASES = _QKV_BIASES | {"attn_output", "ffn_gate", "ffn_up", "ffn_down"}
_LATENT_EPSILON = 1e-6
"""Of the norms of MLA's latents in `transformers`, whatever the configuration; llama.cpp has one epsilon."""
_NEOX = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
    **_PRE_NORMS,
}


def _none(_: PreTrainedConfig) -> Mapping[str, Make]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp makes of a class of `transformers`."""

    arch: MODEL_ARCH
    """Its architecture."""
    names: Mapping[str, str]
    """Our modules, in a layer without its number, and llama.cpp's."""
    facts: Callable[[GGUFWriter, PreTrainedConfig], None]
    """Writes the metadata that not every architecture has."""
    lacks: Callable[[PreTrainedConfig], Iterator[str]]
    """Yields what the configuration has and the architecture does not."""
    biases: frozenset[str] = frozenset()
    """Its modules that may have a bias, besides LayerNorms."""
    shares_output: bool = True
    """A file without output layer takes the table of embeddings."""
    makers: Callable[[PreTrainedConfig], Mapping[str, Make]] = _none
    """Its modules whose rows it has in another order."""


def targets(folder: Folder, architecture: Architecture) -> Iterator[Target]:
    """Yield the tensors of the file in the order in which they are written.

    Raises:
        UserError: llama.cpp has no place for a tensor; the message names it.
    """
    config, makers = folder.config, architecture.makers(folder.config)
    if (factors := rope.frequency_factors(config)) is not None:
        yield Target("rope_freqs.weight", (), constant(factors))
    for name, parts in with_experts_together(folder.entries):
        if name.endswith("kv_b_proj.weight"):
            layer, _ = in_layer(name)
            yield Target(f"blk.{layer}.attn_k_b.weight", parts, latent_keys(config))
            yield Target(f"blk.{layer}.attn_v_b.weight", parts, latent_values(config))
            continue
        module, full = _translated(name, architecture)
        yield Target(full, parts, makers.get(module, Target.make), stacked=name not in folder.entries)
    if tied(config) and not architecture.shares_output:
        table = next(name for name in folder.entries if _translated(name, architecture)[0] == "token_embd")
        yield Target("output.weight", (table,))


def _translated(name: str, architecture: Architecture) -> tuple[str, str]:
    """Return llama.cpp's module of a tensor, and its name with layer and suffix."""
    layer, rest = in_layer(name)
    if rest.endswith("e_score_correction_bias"):
        return "exp_probs_b", f"blk.{layer}.exp_probs_b.bias"
    module, _, suffix = rest.rpartition(".")
    ours = architecture.names.get(module)
    biased = ours is not None and (ours in architecture.biases or architecture.names is _NEOX)
    if ours is None or (suffix == "bias" and not biased):
        raise UserError(f"llama.cpp's architecture {architecture.arch.name.lower()} has no place for {name}")
    return ours, f"{ours}.{suffix}" if layer is None else f"blk.{layer}.{ours}.{suffix}"


def write_facts(writer: GGUFWriter, config: PreTrainedConfig, architecture: Architecture) -> None:
    """Write what llama.cpp must know of the model, which is exact up to the context length that is written.

    Raises:
        UserError: The configuration has something that the architecture does not; the message names all of it.
    """
    if lacking := list(architecture.lacks(config)):
        raise UserError(f"llama.cpp's architecture {architecture.arch.name.lower()} lacks {'; '.join(lacking)}")
    writer.add_context_length(context_length(config, architecture))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    rope.write(writer, config)
    architecture.facts(writer, config)


def context_length(config: PreTrainedConfig, architecture: Architecture) -> int:
    """Return for how many positions llama.cpp's model is ours: without windows, for those in the shortest one."""
    longest = int(config.max_position_embeddings)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    if window is None or "sliding_attention" not in kinds or architecture.arch == MODEL_ARCH.OLMO2:
        return longest
    return min(longest, int(window))


def _head_size(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _gated(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    head = _head_size(config)
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)


def _mixtral(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _gated(writer, config)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)


def _qwen3_moe(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _gated(writer, config)
    writer.add_expert_count(config.num_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _olmo(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    _gated(writer, config)
    kinds = getattr(config, "layer_types", None) or []
    if "sliding_attention" in kinds:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in kinds])


def _deepseek(writer: GGUFWriter, config: PreTrainedConfig) -> None:
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


def _neox(writer: GGUFWriter, config: PreTrainedConfig) -> None:
    share = rope.parameters(config).get("partial_rotary_factor", 1.0)
    writer.add_rope_dimension_count(int(config.hidden_size // config.num_attention_heads * share))
    writer.add_parallel_residual(config.use_parallel_residual)
    writer.add_layer_norm_eps(config.layer_norm_eps)


def _lacks_llama(config: PreTrainedConfig) -> Iterator[str]:
    if config.hidden_act != "silu":
        yield f"hidden_act = {config.hidden_act}"
    if rope.parameters(config).get("partial_rotary_factor", 1.0) != 1:
        yield "a partial_rotary_factor"


def _lacks_other(config: PreTrainedConfig) -> Iterator[str]:
    yield from _lacks_llama(config)
    if rope.parameters(config)["rope_type"] == "llama3":
        yield "rope_type = llama3"


def _lacks_wide_heads(config: PreTrainedConfig) -> Iterator[str]:
    yield from _lacks_other(config)
    if _head_size(config) * config.num_attention_heads != config.hidden_size:
        yield f"head_dim = {config.head_dim} other than hidden_size / num_attention_heads"


def _lacks_qwen3_moe(config: PreTrainedConfig) -> Iterator[str]:
    yield from _lacks_other(config)
    if not config.norm_topk_prob:
        yield "norm_topk_prob = false"
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        yield "dense layers among those with experts (mlp_only_layers, decoder_sparse_step)"


def _lacks_olmo(config: PreTrainedConfig) -> Iterator[str]:
    yield from _lacks_wide_heads(config)
    local = config.rope_parameters.get("sliding_attention")
    if local and (local["rope_type"], local["rope_theta"]) != ("default", rope.parameters(config)["rope_theta"]):
        yield f"rope_parameters of its own for sliding_attention, {local}"


def _lacks_deepseek(config: PreTrainedConfig) -> Iterator[str]:
    yield from _lacks_other(config)
    if config.rms_norm_eps != _LATENT_EPSILON:
        yield f"rms_norm_eps = {config.rms_norm_eps} beside the {_LATENT_EPSILON} of the norms of latents"
    if not getattr(config, "rope_interleave", True):
        yield "rope_interleave = false"
    if getattr(config, "topk_method", None) == "group_limited_greedy" and config.topk_group < config.n_group:
        yield "topk_method = group_limited_greedy (it chooses groups by their two best experts, not by the best)"
    lite = (config.num_hidden_layers, config.vocab_size) == (48, 128256) or config.num_hidden_layers in (26, 27)
    if config.q_lora_rank is not None and lite:
        yield f"q_lora_rank with {config.num_hidden_layers} layers, by which it takes it for DeepSeek-V2-Lite's shape"


def _lacks_neox(config: PreTrainedConfig) -> Iterator[str]:
    if not config.hidden_act.startswith("gelu"):
        yield f"hidden_act = {config.hidden_act}"
    if not config.attention_bias:
        yield "attention_bias = false"
    if rope.parameters(config)["rope_type"] == "llama3":
        yield "rope_type = llama3"


def _llama_rows(config: PreTrainedConfig) -> Mapping[str, Make]:
    return {"attn_q": interleaved(config.num_attention_heads), "attn_k": interleaved(config.num_key_value_heads)}


_LLAMA_FAMILY = Architecture(
    MODEL_ARCH.LLAMA, _LLAMA, _gated, _lacks_llama, biases=frozenset(_LLAMA_BIASES), makers=_llama_rows
)
_OLMO = Architecture(
    MODEL_ARCH.OLMO2,
    _OUTER | _ATTENTION | _GATED_MLP | _POST_NORMS | _HEAD_NORMS,
    _olmo,
    _lacks_olmo,
    shares_output=False,
)
_DEEPSEEK = Architecture(
    MODEL_ARCH.DEEPSEEK2,
    _OUTER | _LATENT_ATTENTION | _GATED_MLP | _PRE_NORMS | _EXPERTS | _SHARED_EXPERTS | {"mlp.gate": "ffn_gate_inp"},
    _deepseek,
    _lacks_deepseek,
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": _LLAMA_FAMILY,
    "MistralForCausalLM": _LLAMA_FAMILY,
    "MixtralForCausalLM": Architecture(
        MODEL_ARCH.LLAMA,
        _OUTER | _ATTENTION | _MIXTRAL_EXPERTS | _PRE_NORMS,
        _mixtral,
        _lacks_llama,
        makers=_llama_rows,
    ),
    "Qwen2ForCausalLM": Architecture(MODEL_ARCH.QWEN2, _LLAMA, _gated, _lacks_wide_heads, biases=_QKV_BIASES),
    "Qwen3ForCausalLM": Architecture(MODEL_ARCH.QWEN3, _LLAMA | _HEAD_NORMS, _gated, _lacks_other, biases=_QKV_BIASES),
    "Qwen3MoeForCausalLM": Architecture(
        MODEL_ARCH.QWEN3MOE,
        _OUTER | _ATTENTION | _PRE_NORMS | _HEAD_NORMS | _EXPERTS | {"mlp.gate": "ffn_gate_inp"},
        _qwen3_moe,
        _lacks_qwen3_moe,
    ),
    "Olmo2ForCausalLM": _OLMO,
    "Olmo3ForCausalLM": _OLMO,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "GPTNeoXForCausalLM": Architecture(
        MODEL_ARCH.GPTNEOX,
        _NEOX,
        _neox,
        _lacks_neox,
        shares_output=False,
        makers=lambda config: {"attn_qkv": unmixed(config.num_attention_heads)},
    ),
}
"""By class of `transformers`."""
