"""What configurations can say and llama.cpp does not do; one function a kind of model.

llama.cpp ignores most of it without a word, and computes another model.
"""

from collections.abc import Iterator

from transformers import PreTrainedConfig

from model.gguf import rope
from model.gguf.facts import head_size

_LATENT_EPSILON = 1e-6
"""Of the norms of MLA's latents in `transformers`, whatever the configuration; llama.cpp has one epsilon."""

_GELUS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh")
"""They differ by less than the table does that llama.cpp computes GELU from."""


def llama(config: PreTrainedConfig) -> Iterator[str]:
    """Yield what the architecture llama lacks."""
    if config.hidden_act != "silu":
        yield f"hidden_act = {config.hidden_act}"
    if rope.parameters(config).get("partial_rotary_factor", 1.0) != 1:
        yield "a partial_rotary_factor"


def other(config: PreTrainedConfig) -> Iterator[str]:
    """Yield what any other architecture with RMSNorm and a gated MLP lacks."""
    yield from llama(config)
    if rope.parameters(config)["rope_type"] == "llama3":
        yield "rope_type = llama3"


def wide_heads(config: PreTrainedConfig) -> Iterator[str]:
    """Yield what an architecture lacks whose heads are together as wide as the model."""
    yield from other(config)
    if head_size(config) * config.num_attention_heads != config.hidden_size:
        yield f"head_dim = {config.head_dim} other than hidden_size / num_attention_heads"


def qwen3_moe(config: PreTrainedConfig) -> Iterator[str]:
    """Yield what the architecture qwen3moe lacks."""
    yield from other(config)
    if not config.norm_topk_prob:
        yield "norm_topk_prob = false"
    if config.mlp_only_layers or config.decoder_sparse_step != 1:
        yield "dense layers among those with experts (mlp_only_layers, decoder_sparse_step)"


def olmo(config: PreTrainedConfig) -> Iterator[str]:
    """Yield what the architecture olmo2 lacks."""
    yield from wide_heads(config)
    local = config.rope_parameters.get("sliding_attention")
    if local and (local["rope_type"], local["rope_theta"]) != ("default", rope.parameters(config)["rope_theta"]):
        yield f"rope_parameters of its own for sliding_attention, {local}"


def deepseek(config: PreTrainedConfig) -> Iterator[str]:
    """Yield what the architecture deepseek2 lacks."""
    yield from other(config)
    if config.rms_norm_eps != _LATENT_EPSILON:
        yield f"rms_norm_eps = {config.rms_norm_eps} beside the {_LATENT_EPSILON} of the norms of latents"
    yarn = rope.parameters(config)
    if yarn["rope_type"] == "yarn" and (
        not yarn.get("mscale") or yarn.get("mscale") != yarn.get("mscale_all_dim") or yarn.get("attention_factor")
    ):
        yield "yarn without mscale and, of the same value, mscale_all_dim"
    if not getattr(config, "rope_interleave", True):
        yield "rope_interleave = false"
    if getattr(config, "topk_method", None) == "group_limited_greedy" and config.topk_group < config.n_group:
        yield "topk_method = group_limited_greedy (it chooses groups by their two best experts, not by the best)"
    lite = (config.num_hidden_layers, config.vocab_size) == (48, 128256) or config.num_hidden_layers in (26, 27)
    if config.q_lora_rank is not None and lite:
        yield f"q_lora_rank with {config.num_hidden_layers} layers, by which it takes it for DeepSeek-V2-Lite's shape"


def neox(config: PreTrainedConfig) -> Iterator[str]:
    """Yield what the architecture gptneox lacks."""
    if config.hidden_act not in _GELUS:
        yield f"hidden_act = {config.hidden_act}"
    if not config.attention_bias:
        yield "attention_bias = false"
    if rope.parameters(config)["rope_type"] == "llama3":
        yield "rope_type = llama3"
