"""A small real corpus as the pretrain stage finds it: the standard library as token shards, and parameters."""

import json
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from stages.corpus import bpe, vocabulary
from stages.files import sha256_file, write_json

VOCAB_SIZE = 500
DOMAINS = {"code": "json", "prose": "email"}


def write(root: Path) -> None:
    """Write out/tokenizer and out/shards below `root`."""
    library = Path(sysconfig.get_path("stdlib"))
    texts = {
        domain: [file.read_text(encoding="utf-8") for file in sorted((library / package).glob("*.py"))]
        for domain, package in DOMAINS.items()
    }
    tokenizer = bpe.train((text for some in texts.values() for text in some), VOCAB_SIZE)
    file = root / "out" / "tokenizer" / "tokenizer" / "tokenizer.json"
    vocabulary.save(tokenizer, file.parent)
    splits = {}
    for split in ("train", "validation"):
        folder = root / "out" / "shards" / "tokens" / split
        folder.mkdir(parents=True)
        splits[split] = {domain: _write_shard(folder / domain, tokenizer, texts[domain]) for domain in texts}
    entry = {"sha256": sha256_file(file), "vocab_size": VOCAB_SIZE, "end_of_document": 0, "pad": 1}
    write_json(root / "out" / "shards" / "index.json", {"tokenizer": entry, "splits": splits})


def _write_shard(prefix: Path, tokenizer: Any, texts: list[str]) -> dict[str, int]:
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
    lengths = []
    for text in texts:
        ids = [*tokenizer.encode(text).ids, 0]
        builder.add_document(torch.tensor(ids), [len(ids)])
        lengths.append(len(ids))
    builder.finalize(f"{prefix}.idx")
    about = {"source": DOMAINS[prefix.name], "license": "Python-2.0.1"}
    pq.write_table(pa.Table.from_pylist([{"tokens": length, **about} for length in lengths]), f"{prefix}.parquet")
    return {"documents": len(texts), "tokens": sum(lengths)}


def write_params(root: Path, values: dict[str, Any]) -> None:
    """Write params.yaml, of which JSON is one form."""
    (root / "params.yaml").write_text(json.dumps(values))


def params(steps: int = 12, tensor_parallel: int = 1, blend: dict[str, float] | None = None, **pretrain: Any) -> Any:
    """Return parameters of a model of 130 k weights, trained in one phase."""
    return {
        "model": {
            "family": "llama",
            "num_layers": 2,
            "hidden_size": 64,
            "ffn_hidden_size": 128,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "seq_length": 64,
        },
        "pretrain": {
            "device": "cpu",
            "precision": "float32",
            "num_threads": 1,
            "layout": {"tensor_model_parallel_size": tensor_parallel},
            "weight_seed": 3,
            "data_seed": 5,
            "phases": {
                "main": {
                    "tokens": steps * 4 * 64,
                    "blend": blend or {"code": 0.7, "prose": 0.3},
                    "global_batch_size": 4,
                }
            },
            "micro_batch_size": 2,
            "schedule": {"style": "cosine", "learning_rate": 3e-3, "min_learning_rate": 3e-4, "warmup_steps": 4},
            "optimizer": {"weight_decay": 0.1},
            "eval_interval": 6,
            "eval_sequences": 4,
            "checkpoint_interval": 1000,  # saving takes longer than these steps do
            **pretrain,
        },
        "runtime": {
            "launch": {"kind": "local"},
            "data_workers": 1,
            "keep_checkpoints": 2,
            "async_checkpoints": True,
            "heartbeat_seconds": 600,
        },
        "export": {
            "num_threads": 1,
            "sequences": 2,
            "max_abs_logit_difference": 1e-4,
            "max_loss_difference": 1e-5,
        },
    }
