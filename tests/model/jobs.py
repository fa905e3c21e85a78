"""Jobs of small models, and `transformers` folders that they start from."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedModel

from model.convert.config import Ids, model_class, to_config
from model.families.family import ModelSettings
from model.families.llama import Llama
from model.job import Job, versions

LLAMA = Llama(
    num_layers=3,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=4,
    num_query_groups=2,
    seq_length=16,
    init_method_std=0.2,  # logits of about 5, so that a difference shows
)
MIXTRAL = ModelSettings.model_validate(
    {**LLAMA.model_dump(exclude_defaults=True), "family": "mixtral", "moe": {"num_experts": 4, "router_topk": 2}}
)
VOCAB_SIZE = 101
"""Padded to 128."""


def job(
    tokenizer: Path, model: ModelSettings = LLAMA, vocab_size: int = VOCAB_SIZE, start: dict[str, str] | None = None
) -> Job:
    """Return a job of one process."""
    pretrain = {
        "device": "cpu",
        "precision": "float32",
        "num_threads": 1,
        "weight_seed": 3,
        "data_seed": 5,
        "start": start,
        "phases": {"main": {"tokens": 1024, "blend": {"code": 1.0}, "global_batch_size": 4}},
        "micro_batch_size": 2,
        "schedule": {"style": "constant", "learning_rate": 1e-3, "min_learning_rate": 1e-3, "warmup_steps": 0},
        "optimizer": {"weight_decay": 0.1},
        "eval_interval": 1,
        "eval_sequences": 1,
        "checkpoint_interval": 1,
    }
    shards = {
        "digest": "",
        "tokens": "",
        "tokenizer": str(tokenizer),
        "tokenizer_sha256": "",
        "vocab_size": vocab_size,
        "end_of_document": 0,
        "pad": 1,
    }
    settings: dict[str, Any] = {"model": model.model_dump(), "pretrain": pretrain, "shards": shards}
    return Job.model_validate({**settings, "versions": versions()})


def start_from(folder: Path, model: ModelSettings = LLAMA) -> Job:
    """Return a job that starts from a `transformers` folder whose tokenizer is that of its shards."""
    return job(folder / "tokenizer.json", model, start={"kind": "huggingface", "path": str(folder)})


def write_hugging_face(folder: Path, model: ModelSettings = LLAMA, **changes: Any) -> PreTrainedModel:
    """Write a random `transformers` model with a tokenizer, and return it.

    Args:
        folder: Where.
        model: Its shape.
        changes: Of its configuration.
    """
    config = to_config(model, Ids(VOCAB_SIZE, 0, 1))
    config.update(changes)
    torch.manual_seed(7)
    written: PreTrainedModel = model_class(model)(config).eval()
    for name, weight in written.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    written.save_pretrained(folder)
    write_tokenizer(folder / "tokenizer.json", [f"token {index}" for index in range(VOCAB_SIZE)])
    return written


def write_tokenizer(file: Path, tokens: list[str]) -> None:
    """Write a tokenizer whose ids are the places of the tokens."""
    Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, tokens[0])).save(str(file))
