"""The architectures of llama.cpp that the families are written as, and where each has which tensor."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gguf import MODEL_ARCH, GGUFWriter
from transformers import PreTrainedConfig

from model.gguf import facts, lacking, rope
from model.gguf.folder import Folder, tied
from model.gguf.tensors import (
    Make,
    Target,
    as_it_is,
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
_LLAMA_BIASES = frozenset(_ATTENTION.values()) | frozenset(_GATED_MLP.values())
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
    """Its modules that may have a bias."""
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
        yield Target("rope_freqs.weight", (), constant=factors)
    for name, parts in with_experts_together(folder.entries):
        if name.endswith("kv_b_proj.weight"):
            layer, _ = in_layer(name)
            yield Target(f"blk.{layer}.attn_k_b.weight", parts, latent_keys(config))
            yield Target(f"blk.{layer}.attn_v_b.weight", parts, latent_values(config))
            continue
        module, full = _translated(name, architecture)
        yield Target(full, parts, makers.get(module, as_it_is), stacked=name not in folder.entries)
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
    if ours is None or (suffix == "bias" and ours not in architecture.biases):
        raise UserError(f"llama.cpp's architecture {architecture.arch.name.lower()} has no place for {name}")
    return ours, f"{ours}.{suffix}" if layer is None else f"blk.{layer}.{ours}.{suffix}"


def write_facts(writer: GGUFWriter, config: PreTrainedConfig, architecture: Architecture) -> None:
    """Write the metadata of a model, which llama.cpp computes exactly up to the context length in it.

    Raises:
        UserError: The configuration has something that the architecture does not; the message names all of it.
    """
    if lacks := list(architecture.lacks(config)):
        raise UserError(f"llama.cpp's architecture {architecture.arch.name.lower()} lacks {'; '.join(lacks)}")
    facts.write(writer, config, architecture.arch)
    architecture.facts(writer, config)


def _llama_rows(config: PreTrainedConfig) -> Mapping[str, Make]:
    return {"attn_q": interleaved(config.num_attention_heads), "attn_k": interleaved(config.num_key_value_heads)}


_LLAMA_FAMILY = Architecture(
    MODEL_ARCH.LLAMA, _LLAMA, facts.gated, lacking.llama, biases=_LLAMA_BIASES, makers=_llama_rows
)
_OLMO = Architecture(
    MODEL_ARCH.OLMO2,
    _OUTER | _ATTENTION | _GATED_MLP | _POST_NORMS | _HEAD_NORMS,
    facts.olmo,
    lacking.olmo,
    shares_output=False,
)
_DEEPSEEK = Architecture(
    MODEL_ARCH.DEEPSEEK2,
    _OUTER | _LATENT_ATTENTION | _GATED_MLP | _PRE_NORMS | _EXPERTS | _SHARED_EXPERTS | {"mlp.gate": "ffn_gate_inp"},
    facts.deepseek,
    lacking.deepseek,
)
ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": _LLAMA_FAMILY,
    "MistralForCausalLM": _LLAMA_FAMILY,
    "MixtralForCausalLM": Architecture(
        MODEL_ARCH.LLAMA,
        _OUTER | _ATTENTION | _MIXTRAL_EXPERTS | _PRE_NORMS,
        facts.mixtral,
        lacking.llama,
        makers=_llama_rows,
    ),
    "Qwen2ForCausalLM": Architecture(MODEL_ARCH.QWEN2, _LLAMA, facts.gated, lacking.wide_heads, biases=_QKV_BIASES),
    "Qwen3ForCausalLM": Architecture(
        MODEL_ARCH.QWEN3, _LLAMA | _HEAD_NORMS, facts.gated, lacking.other, biases=_QKV_BIASES
    ),
    "Qwen3MoeForCausalLM": Architecture(
        MODEL_ARCH.QWEN3MOE,
        _OUTER | _ATTENTION | _PRE_NORMS | _HEAD_NORMS | _EXPERTS | {"mlp.gate": "ffn_gate_inp"},
        facts.qwen3_moe,
        lacking.qwen3_moe,
    ),
    "Olmo2ForCausalLM": _OLMO,
    "Olmo3ForCausalLM": _OLMO,
    "DeepseekV2ForCausalLM": _DEEPSEEK,
    "DeepseekV3ForCausalLM": _DEEPSEEK,
    "GPTNeoXForCausalLM": Architecture(
        MODEL_ARCH.GPTNEOX,
        _NEOX,
        facts.neox,
        lacking.neox,
        biases=frozenset(_NEOX.values()),
        shares_output=False,
        makers=lambda config: {"attn_qkv": unmixed(config.num_attention_heads)},
    ),
}
"""By class of `transformers`."""
