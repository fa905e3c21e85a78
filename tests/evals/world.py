"""What the evaluation reads, small but real: a random model, its tokenizer, a test split and training shards."""

import contextlib
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder
from ruamel.yaml import YAML
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from evals.documents import Document, digest
from stages.curation.benchmarks import Checked, Manifest
from stages.files import write_json

END_OF_DOCUMENT = "<|endoftext|>"
CONTEXT = 256
PARAMS: dict[str, Any] = {
    "documents": 8,
    "continuation": {"questions": 12, "lines": 2, "choice_bytes": 96, "context_bytes": 160},
    "seed": 0,
    "device": "cpu",
    "dtype": "float32",
    "threads": 2,
    "batch_size": 8,
    "tasks": [],
    "uncovered_tasks": "refuse",
    "include_path": None,
}


def texts(folder: str, most_bytes: int = 20_000) -> list[str]:
    """Sources of a package of the standard library that are not too long to score."""
    paths = sorted((Path(sysconfig.get_paths()["stdlib"]) / folder).glob("*.py"))
    return [path.read_text(encoding="utf-8") for path in paths if 500 < path.stat().st_size < most_bytes]


def documents(domain: str, chosen: list[str]) -> list[Document]:
    return [Document(f"{domain}-{number}", domain, digest(0, text), text) for number, text in enumerate(chosen)]


def make(root: Path) -> None:
    """Write params.yaml and the outputs of curate, shards and export below `root`."""
    held_out = documents("code", texts("asyncio")) + documents("prose", texts("email"))
    training = {"code": texts("json"), "prose": texts("logging", 100_000)}
    tokenizer = write_tokenizer(root / "out/export/model", [text for chosen in training.values() for text in chosen])
    write_model(root / "out/export/model", len(tokenizer))
    write_split(root / "out/curate/documents/test", held_out)
    write_shards(root / "out/shards", tokenizer, training)
    write_coverage(root, {})
    write_params(root, PARAMS)


def write_coverage(root: Path, benchmarks: dict[str, tuple[str, ...]]) -> None:
    """Write the evaluation data that curation checked, each the data of tasks."""
    checked = {name: Checked(sha256="0" * 64, tasks=tasks, rows=2, short_rows=1) for name, tasks in benchmarks.items()}
    write_json(root / "out/curate/contamination.json", Manifest(ngram=13, benchmarks=checked).model_dump(mode="json"))


def write_params(root: Path, params: dict[str, Any]) -> None:
    YAML().dump({"evaluate": params}, root / "params.yaml")


def write_tokenizer(folder: Path, training: list[str], vocab_size: int = 384) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT, "<|padding|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_DOCUMENT, eos_token=END_OF_DOCUMENT, pad_token="<|padding|>"
    )
    fast.save_pretrained(folder)
    return fast


def write_model(folder: Path, vocab_size: int, uniform: bool = False) -> None:
    """Save a random Llama, or one whose every weight is zero, so that every token is equally likely."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    if uniform:
        model.load_state_dict({name: torch.zeros_like(weight) for name, weight in model.state_dict().items()})
    model.save_pretrained(folder)


def write_split(folder: Path, chosen: list[Document], name: str = "test-00000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{**vars(document), "source": "stdlib", "origin": "-", "license": "Python-2.0.1"} for document in chosen]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet", compression="zstd")


def write_shards(folder: Path, tokenizer: PreTrainedTokenizerFast, training: dict[str, list[str]]) -> None:
    tokens = {domain: [tokenizer.encode(text) for text in chosen] for domain, chosen in training.items()}
    write_token_shards(folder, len(tokenizer), tokens)


def write_token_shards(folder: Path, vocab_size: int, tokens: dict[str, list[list[int]]]) -> None:
    """Write the training split of `out/shards`; each document is followed by token 0."""
    train = folder / "tokens" / "train"
    train.mkdir(parents=True)
    for domain, chosen in tokens.items():
        builder = IndexedDatasetBuilder(str(train / f"{domain}.bin"), dtype=DType.optimal_dtype(vocab_size))
        for document in chosen:
            builder.add_document(torch.tensor([*document, 0]), [len(document) + 1])
        builder.finalize(str(train / f"{domain}.idx"))
    splits = {"train": {domain: {"documents": len(chosen)} for domain, chosen in tokens.items()}}
    index = {"tokenizer": {"sha256": "-", "vocab_size": vocab_size, "end_of_document": 0}, "splits": splits}
    write_json(folder / "index.json", index)


@contextlib.contextmanager
def offline_only_here() -> Iterator[None]:
    """Undo what importing `evals.harness` does to the process, for the tests that use a network of their own."""
    usual, offline = dict(os.environ), huggingface_hub.constants.HF_HUB_OFFLINE
    yield
    os.environ.clear()
    os.environ.update(usual)
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
