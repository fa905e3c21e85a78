"""The same model in other codebases, each in a plain training loop: `torch`'s fused AdamW, clipping, autocast for bf16.

A peer is a function from a job and the weights as `transformers` names them to a module and to what makes logits
`[b, s, v]` of its output. litgpt and torchtitan are no dependencies of ours; a peer that is not installed is left out.
"""

import contextlib
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.convert.config import Ids, to_config
from model.job import Job

Weights = Mapping[str, Tensor]
Logits = Callable[[Tensor], Tensor]


class Loop:
    """A module in the loop of its users.

    Args:
        module: On its device.
        logits: From tokens `[b, s]` to `[b, s, v]`.
        job: Optimizer and precision.
    """

    def __init__(self, module: nn.Module, logits: Logits, job: Job) -> None:
        chosen = job.pretrain.optimizer
        self._module, self._logits, self._clip = module, logits, chosen.clip_grad
        self._autocast = job.pretrain.precision == "bf16"
        weights = list(module.parameters())
        decayed = {"params": [w for w in weights if w.dim() > 1], "weight_decay": chosen.weight_decay}
        others = {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0}
        betas = (chosen.adam_beta1, chosen.adam_beta2)
        self._optimizer = torch.optim.AdamW(
            [decayed, others], lr=job.pretrain.schedule.learning_rate, betas=betas, eps=chosen.adam_eps, fused=True
        )

    def __call__(self, tokens: Tensor, labels: Tensor) -> float:
        """Take one step on `[b, s]` and return the loss before it."""
        self._optimizer.zero_grad(set_to_none=True)
        cast = torch.autocast(tokens.device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        with cast:
            logits = self._logits(tokens)
        loss = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._module.parameters(), self._clip)
        self._optimizer.step()
        return loss.item()


def transformers(job: Job, weights: Weights) -> tuple[nn.Module, Logits]:
    """LlamaForCausalLM, eager, with SDPA."""
    from transformers import LlamaForCausalLM

    config: Any = to_config(job.model, Ids(job.shards.vocab_size, 0, 1))
    module: Any = LlamaForCausalLM(config)
    module.load_state_dict(weights, strict=not job.model.share_embeddings_and_output_weights)
    return module, lambda tokens: module(tokens, use_cache=False).logits


def litgpt(job: Job, weights: Weights) -> tuple[nn.Module, Logits]:
    """litgpt's GPT with its own converter of Llama's weights; it has no tied tables, so they are tied here."""
    config_class = importlib.import_module("litgpt.config").Config
    gpt = importlib.import_module("litgpt.model").GPT
    convert = importlib.import_module("litgpt.scripts.convert_hf_checkpoint").copy_weights_hf_llama

    model = job.model
    config = config_class(
        block_size=model.seq_length,
        padded_vocab_size=job.shards.vocab_size,
        n_layer=model.num_layers,
        n_embd=model.hidden_size,
        n_head=model.num_attention_heads,
        n_query_groups=model.num_query_groups,
        intermediate_size=model.ffn_hidden_size,
        rotary_percentage=1.0,
        rope_base=int(model.rotary_base),
        norm_class_name="RMSNorm",
        norm_eps=model.layernorm_epsilon,
        mlp_class_name="LLaMAMLP",
        bias=False,
        parallel_residual=False,
    )
    module = gpt(config)
    state: dict[str, Tensor] = {}
    convert(config, {}, state, dict(weights))
    module.load_state_dict(state)
    if model.share_embeddings_and_output_weights:
        module.lm_head.weight = module.transformer.wte.weight
    return module, module


def torchtitan(job: Job, weights: Weights) -> tuple[nn.Module, Logits]:
    """The Transformer of torchtitan 0.2 without its parallelism; it has no tied tables, so they are tied here."""
    llama3 = importlib.import_module("torchtitan.models.llama3")
    no_scaling = importlib.import_module("torchtitan.models.llama3.model.args").RoPEScalingArgs(scaling_factor=1.0)

    model = job.model
    config = llama3.TransformerModelArgs(
        dim=model.hidden_size,
        n_layers=model.num_layers,
        n_heads=model.num_attention_heads,
        n_kv_heads=model.num_query_groups,
        vocab_size=job.shards.vocab_size,
        multiple_of=model.ffn_hidden_size,  # the rule rounds two thirds of four times the width up to it
        norm_eps=model.layernorm_epsilon,
        rope_theta=model.rotary_base,
        rope_scaling_args=no_scaling,
        max_seq_len=model.seq_length,
    )
    module = llama3.Transformer(config)
    state = llama3.Llama3StateDictAdapter(config, None).from_hf(dict(weights))
    module.load_state_dict(state, strict=not model.share_embeddings_and_output_weights)
    if model.share_embeddings_and_output_weights:
        module.output.weight = module.tok_embeddings.weight
    return module, module


def plain(job: Job, weights: Weights) -> tuple[nn.Module, Logits]:
    """A Llama in plain torch as nanoGPT writes a GPT: one file, fused projections, SDPA."""
    module = PlainLlama(job)
    module.load_transformers(weights)
    return module, module


class PlainLlama(nn.Module):
    """Tokens `[b, s]` to logits `[b, s, v]`."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        model = job.model
        self.embedding = nn.Embedding(job.shards.vocab_size, model.hidden_size)
        self.blocks = nn.ModuleList(PlainBlock(job) for _ in range(model.num_layers))
        self.norm = nn.RMSNorm(model.hidden_size, eps=model.layernorm_epsilon)
        self.output = nn.Linear(model.hidden_size, job.shards.vocab_size, bias=False)
        if model.share_embeddings_and_output_weights:
            self.output.weight = self.embedding.weight
        width = model.hidden_size // model.num_attention_heads
        frequencies = model.rotary_base ** (-torch.arange(0, width, 2) / width)
        angles = torch.arange(model.seq_length)[:, None] * frequencies
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits: Tensor = self.output(self.norm(x))
        return logits

    def load_transformers(self, weights: Weights) -> None:
        state = {"embedding.weight": weights["model.embed_tokens.weight"], "norm.weight": weights["model.norm.weight"]}
        state["output.weight"] = weights.get("lm_head.weight", state["embedding.weight"])
        for i in range(len(self.blocks)):
            source, to = f"model.layers.{i}.", f"blocks.{i}."
            parts = [weights[f"{source}self_attn.{x}_proj.weight"] for x in "qkv"]
            state[to + "query_key_value.weight"] = torch.cat(parts)
            state[to + "gate_up.weight"] = torch.cat([weights[f"{source}mlp.{x}_proj.weight"] for x in ("gate", "up")])
            state[to + "out.weight"] = weights[source + "self_attn.o_proj.weight"]
            state[to + "down.weight"] = weights[source + "mlp.down_proj.weight"]
            state[to + "norm_1.weight"] = weights[source + "input_layernorm.weight"]
            state[to + "norm_2.weight"] = weights[source + "post_attention_layernorm.weight"]
        self.load_state_dict(state)


class PlainBlock(nn.Module):
    """One layer: `[b, s, h]` to `[b, s, h]`."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        model = job.model
        h, self.heads, self.groups = model.hidden_size, model.num_attention_heads, model.num_query_groups
        self.norm_1 = nn.RMSNorm(h, eps=model.layernorm_epsilon)
        self.query_key_value = nn.Linear(h, h + 2 * self.groups * (h // self.heads), bias=False)
        self.out = nn.Linear(h, h, bias=False)
        self.norm_2 = nn.RMSNorm(h, eps=model.layernorm_epsilon)
        self.gate_up = nn.Linear(h, 2 * model.ffn_hidden_size, bias=False)
        self.down = nn.Linear(model.ffn_hidden_size, h, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        b, s, h = x.shape
        fused = self.query_key_value(self.norm_1(x)).view(b, s, self.heads + 2 * self.groups, -1).transpose(1, 2)
        query, key, value = fused.split([self.heads, self.groups, self.groups], dim=1)
        query, key = rotated(query, cos, sin), rotated(key, cos, sin)
        shared = self.heads != self.groups
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=shared)
        x = x + self.out(seen.transpose(1, 2).reshape(b, s, h))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, dim=-1)
        y: Tensor = x + self.down(functional.silu(gate) * up)
        return y


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return `[b, heads, s, d]` with rotary positions, in its own dtype."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


PEERS: dict[str, Callable[[Job, Weights], tuple[nn.Module, Logits]]] = {
    "transformers": transformers,
    "plain": plain,
    "litgpt": litgpt,
    "torchtitan": torchtitan,
}
