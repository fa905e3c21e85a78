"""Shards whose every token is another number, and jobs on them: what a sample holds can be told from its tokens."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model import megatron

megatron.install()

from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder  # noqa: E402 - after install

from model.families.llama import Llama  # noqa: E402
from model.job import Job, Shards  # noqa: E402
from model.settings import PretrainSettings  # noqa: E402

LENGTHS = {"code": [7, 1, 30, 2, 19, 4, 88, 11, 3, 3], "prose": [41, 5, 16, 160, 9]}
MODEL = Llama(num_layers=1, hidden_size=8, ffn_hidden_size=8, num_attention_heads=1, num_query_groups=1, seq_length=8)


def write(prefix: Path, lengths: list[int], first: int = 0) -> list[NDArray[np.int64]]:
    """Write a shard of documents with these lengths, tokens numbered from `first`, and return the documents."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    documents = np.split(np.arange(first, first + sum(lengths)), np.cumsum(lengths)[:-1])
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.int32)
    for document in documents:
        builder.add_document(document.astype(np.int32), [len(document)])
    builder.finalize(f"{prefix}.idx")
    return documents


def write_domains(root: Path, lengths: dict[str, list[int]] = LENGTHS) -> dict[str, list[NDArray[np.int64]]]:
    """Write training shards below `root` and return their documents; domain i has tokens from a million times i."""
    return {
        domain: write(root / "train" / domain, lengths[domain], first=1_000_000 * index)
        for index, domain in enumerate(sorted(lengths))
    }


def phase(tokens: int = 800, blend: dict[str, float] | None = None, **settings: Any) -> dict[str, Any]:
    """Return the settings of a phase; batches of 4."""
    return {"tokens": tokens, "blend": blend or {"code": 0.3, "prose": 0.7}, "global_batch_size": 4, **settings}


def job(root: Path, *phases: dict[str, Any], **settings: Any) -> Job:
    """Return a job on the shards below `root`."""
    pretrain = {
        "device": "cpu",
        "precision": "float32",
        "num_threads": 1,
        "weight_seed": 1,
        "data_seed": 5,
        "phases": {str(index): value for index, value in enumerate(phases or [phase()])},
        "micro_batch_size": 2,
        "schedule": {"style": "constant", "learning_rate": 1e-3, "min_learning_rate": 0.0, "warmup_steps": 0},
        "optimizer": {"weight_decay": 0.1},
        "eval_interval": 10,
        "eval_sequences": 1,
        "checkpoint_interval": 10,
        **settings,
    }
    shards = Shards(
        digest=hashlib.sha256(b"".join(file.read_bytes() for file in sorted(root.glob("train/*.idx")))).hexdigest(),
        tokens=str(root),
        tokenizer="tokenizer.json",
        tokenizer_sha256="",
        vocab_size=2_000_000,
        end_of_document=0,
        pad=1,
    )
    return Job(model=MODEL, pretrain=PretrainSettings.model_validate(pretrain), shards=shards, versions={})
