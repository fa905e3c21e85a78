"""Small models of every family with a real tokenizer, as folders of `transformers` and as GGUF files for llama.cpp."""

import contextlib
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from model.gguf import writer
from model.gguf.pretokenizers import PreTokenizer
from stages.corpus import bpe, vocabulary

VOCAB_SIZE = 1000
CONTEXT = 96
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "tie_word_embeddings": False,
}
_TIED = {"tie_word_embeddings": True}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 24}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}
_MSCALE = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
_GROUPS = {"q_lora_rank": 24, "n_group": 4, "topk_group": 2, "norm_topk_prob": True}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", _TIED),
    "mixtral": ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3_moe": ("qwen3_moe", _EXPERTS | {"head_dim": 16, "norm_topk_prob": True}),
    "deepseek_v2": ("deepseek_v2", _LATENT | {"q_lora_rank": 24, "topk_method": "greedy"}),
    "gpt_neox": ("gpt_neox", {}),
}
"""`model_type`, and what is other than in `_SHAPE`."""
BESIDE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with a factor of attention": ("llama", {"rope_parameters": YARN | {"attention_factor": 1.3}}),
    "llama with mscales": ("llama", {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}),
    "mistral without window": ("mistral", {"sliding_window": None}),
    "olmo2 tied": ("olmo2", _TIED),
    "deepseek_v2 lite with mscale": (
        "deepseek_v2",
        _LATENT | {"q_lora_rank": None, "topk_method": "greedy", "rope_parameters": _MSCALE},
    ),
    "deepseek_v3 with groups": ("deepseek_v3", _LATENT | _GROUPS),
    "deepseek_v3 with mscale": ("deepseek_v3", _LATENT | _GROUPS | {"rope_parameters": _MSCALE}),
    "gpt_neox in sequence": ("gpt_neox", {"use_parallel_residual": False, "hidden_act": "gelu_new"}),
    "gpt_neox tied": ("gpt_neox", _TIED),
}
"""What the families' table does not have, or has only with something that llama.cpp lacks."""


def model(row: str, **changes: Any) -> PreTrainedModel:
    """Return a random model whose logits are about 5, and in which no weight, bias or buffer is idle."""
    model_type, own = (ROWS | BESIDE)[row]
    config = AutoConfig.for_model(model_type, **(_SHAPE | own | changes))
    torch.manual_seed(7)
    network: Any = AutoModelForCausalLM.from_config(config)
    for name, weight in network.state_dict().items():
        spread = 0.3 * (16 / weight.shape[-1]) ** 0.5 if weight.dim() > 1 else 0.2
        weight.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, spread)
    made: PreTrainedModel = network.eval()
    return made


def folder(path: Path, network: PreTrainedModel) -> Path:
    """Write a model and a tokenizer as the export stage does, and return the folder."""
    network.save_pretrained(path)
    vocabulary.save(tokenizer(), path)
    return path


def gguf(source: Path, kind: str = "F32") -> Path:
    """Write a folder as GGUF beside it and return the file."""
    file = source.with_name(f"{source.name}-{kind}.gguf")
    writer.write(source, file, kind, writer.Identity("made"))
    return file


def tokenizer() -> Tokenizer:
    """Return openbase's own tokenizer, trained on a part of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = (file.read_text(encoding="utf-8") for file in sorted((library / "email").glob("*.py")))
    return bpe.train(texts, VOCAB_SIZE)


def tokenizer_with(chosen: PreTokenizer, texts: list[str]) -> Tokenizer:
    """Return a tokenizer with a pre-tokenizer, trained on some texts."""
    trained = Tokenizer(models.BPE(ignore_merges=chosen.ignore_merges))
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in chosen.patterns]
    end = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trained.pre_tokenizer = pre_tokenizers.Sequence([*splits, end])
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[bpe.END_OF_DOCUMENT, bpe.PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    return trained


@contextlib.contextmanager
def llama(file: Path, **settings: Any) -> Iterator[llama_cpp.Llama]:
    """Yield a file in llama.cpp, with a cache in float32 and rotary positions as the file says."""
    from_file = dict.fromkeys(("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"), -1.0)
    exact = {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32, "logits_all": True, "n_ctx": CONTEXT}
    opened = llama_cpp.Llama(str(file), verbose=False, n_threads=1, n_threads_batch=1, **(from_file | exact | settings))
    try:
        yield opened
    finally:
        opened.close()


def llama_logits(file: Path, ids: list[int]) -> Any:
    """Return llama.cpp's logits `[s, v]`."""
    with llama(file) as opened:
        opened.eval(ids)
        return np.array(opened.scores[: len(ids)])


def texts(number: int = 2000) -> list[str]:
    """Return real source code and adversarial strings, half and half; the same at each call."""
    draw = random.Random(3)
    library = Path(sysconfig.get_path("stdlib"))
    source = "".join((library / name).read_text(encoding="utf-8") for name in ("argparse.py", "html/entities.py"))
    starts = [draw.randrange(len(source) - 400) for _ in range(number // 2)]
    real = [source[start : start + draw.randrange(1, 400)] for start in starts]
    return real + ["".join(_atom(draw) for _ in range(draw.randrange(1, 24))) for _ in range(number - len(real))]


_ATOMS = (
    *("'s", "'S", "'t", "'RE", "'Ve", "'ll", "'D", "'\u017f", "'\u212a", "''", "don't", "IT'S", "\u2019s"),
    *(" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\t\t ", "\x0b", "\x0c", "\x85"),
    *("\xa0", "\u2003", "\u2028", "\u2029", "\u200b", "\u200d", "\ufeff", "\u3000", "\u1680", "\u180e"),
    *("\x00", "\x01", "\x1b[0m", "\x7f", "\x80", "\x9f", "\ufffd", "\ufffe", "\U0010ffff", "\ue000"),
    *("1", "12", "123", "1234", "12345678901", "3.14", "1,000", "0x1F", "\u0663\u0664", "\u00bd", "\u2167", "x\u00b2"),
    *("def f(x):\n    return x\n", "{}[]();", "!=", "->", "//", "/* */", "#!/bin/sh", "\\n", '"""', "=====", "......"),
    *("<|endoftext|>", "<|padding|>", '"<|endoftext|>"', "<|endoftext", "|>", "<|", "<s>", "</s>", "[PAD3]"),
    *("a", "Z", "word", "CamelCase", "snake_case", "\u00e9", "e\u0301", "\u0130", "\u00df", "\ufb01", "\u01c5"),
    *("\u041f\u0440\u0438\u0432\u0435\u0442", "\u4e2d\u6587", "\u3072\u3089\u304c\u306a", "\ud55c\uad6d\uc5b4"),
    *("\u0e20\u0e32\u0e29\u0e32", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0627\u0644\u0639\u0631\u0628\u064a\u0629"),
    *("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1eb\U0001f1f7", "\U0001f44d\U0001f3fd", "\u2764\ufe0f"),
    *("\U0001d54f", "\U00010348", "\u0300\u0301\u0302", "\u1100\u1161\u11a8", "\u202e", "\ufe0f", "\U000e0041"),
)


def _atom(draw: random.Random) -> str:
    """Return a known trouble-maker, or any character at all."""
    if draw.random() < 0.8:
        return draw.choice(_ATOMS)
    return chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000))))


def rewrite(file: Path, **changes: Any) -> None:
    """Change values of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
