"""Token shards as training samples and validation windows."""

import contextlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder  # noqa: E402
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig  # noqa: E402
from megatron.core.datasets.indexed_dataset import IndexedDataset  # noqa: E402

from model import parallel  # noqa: E402
from model.job import Shards  # noqa: E402
from model.settings import ModelSettings, PretrainSettings  # noqa: E402
from stages.errors import UserError  # noqa: E402

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Tokens, labels and positions, each `[b, s]` int64."""


class ShardTokenizer:
    """What GPTDataset asks of a tokenizer: ids that the shards already hold."""

    def __init__(self, shards: Shards) -> None:
        self.vocab_size = shards.vocab_size
        self.eod = shards.end_of_document
        self.pad = shards.pad
        self.unique_identifiers = {"sha256": shards.tokenizer_sha256}


class TrainingData:
    """The blended training samples of a run, in the order of its data seed.

    Megatron-Core's GPTDataset packs shuffled documents into windows and shuffles the windows; its order is a
    function of the shards, the seed and the number of samples, so that number is fixed before step 1.

    Args:
        shards: The token shards.
        model: The model's shape.
        settings: Seed, blend and length of the run.
        cache: Folder for index files, private to this data and these settings: they are keyed by path.
    """

    def __init__(self, shards: Shards, model: ModelSettings, settings: PretrainSettings, cache: Path) -> None:
        prefixes = [str(Path(shards.tokens) / "train" / domain) for domain in sorted(settings.blend)]
        weights = [settings.blend[domain] for domain in sorted(settings.blend)]
        logging.getLogger("megatron.core.datasets").setLevel(logging.ERROR)
        config = GPTDatasetConfig(
            random_seed=settings.data_seed,
            sequence_length=model.seq_length,
            blend_per_split=[(prefixes, weights), None, None],
            path_to_cache=str(cache),
            tokenizer=ShardTokenizer(shards),
            reset_position_ids=False,
            reset_attention_mask=False,
            eod_mask_loss=False,
            create_attention_mask=False,
        )
        sizes = [settings.steps * settings.global_batch_size, 0, 0]
        with _whole_or_rebuilt(cache):
            self._dataset: Any = BlendedMegatronDatasetBuilder(GPTDataset, sizes, lambda: True, config).build()[0]
        self._settings = settings

    def micro_batches(self, step: int, device: torch.device) -> Iterator[Batch]:
        """Yield this replica's micro batches of a step, counted from 1."""
        settings = self._settings
        size, replicas = settings.micro_batch_size, settings.layout.data_parallel_size
        first = (step - 1) * settings.global_batch_size + parallel.data_parallel_rank() * size
        for micro_step in range(settings.num_microbatches):
            start = first + micro_step * size * replicas
            samples = [self._dataset[index] for index in range(start, start + size)]
            tokens, labels, positions = (
                torch.stack([sample[name] for sample in samples]).to(device)
                for name in ("tokens", "labels", "position_ids")
            )
            yield tokens, labels, positions


@contextlib.contextmanager
def _whole_or_rebuilt(cache: Path) -> Iterator[None]:
    """Drop the index files of a run that was killed while it wrote them: Megatron-Core would take them for whole."""
    whole = cache.with_name(cache.name + ".whole")
    if parallel.is_first() and not whole.exists():
        shutil.rmtree(cache, ignore_errors=True)
    dist.barrier()
    yield
    dist.barrier()
    if parallel.is_first():
        whole.touch()


class ValidationData:
    """The first windows of a domain's validation shard, in shard order, without overlap."""

    def __init__(self, prefix: Path, seq_length: int, sequences: int) -> None:
        stream = _leading_tokens(prefix, seq_length * sequences + 1)
        count = min(sequences, (len(stream) - 1) // seq_length)
        if count < 1:
            raise UserError(
                f"the validation shard '{prefix}' has {len(stream)} tokens, fewer than model.seq_length = {seq_length} "
                "and one; lower it, or raise curate.split.validation"
            )
        used = torch.from_numpy(stream[: count * seq_length + 1].astype(np.int64))
        self.tokens = used[:-1].view(count, seq_length)
        """`[windows, s]`."""
        self.labels = used[1:].view(count, seq_length)
        """`[windows, s]`, the tokens one later."""

    def batches(self, size: int, device: torch.device) -> Iterator[Batch]:
        """Yield the windows in batches of at most `size`."""
        positions = torch.arange(self.tokens.shape[1]).expand(size, -1)
        for tokens, labels in zip(self.tokens.split(size), self.labels.split(size), strict=True):
            yield tokens.to(device), labels.to(device), positions[: len(tokens)].to(device)


def _leading_tokens(prefix: Path, count: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the shard's first whole documents that hold `count` tokens, or all of them."""
    shard = IndexedDataset(str(prefix))
    documents, total = [], 0
    for index in range(len(shard)):
        if total >= count:
            break
        documents.append(shard[index].copy())  # a view would outlive the mapping and crash the process
        total += len(documents[-1])
    return np.concatenate(documents)


def token_bytes(tokenizer_json: Any, size: int) -> torch.Tensor:
    """Return how many bytes of text each id of a byte-level tokenizer stands for; special tokens stand for none.

    Args:
        tokenizer_json: The parsed `tokenizer.json`; in its byte-level alphabet one character is one byte.
        size: Rows of the table, at least the vocabulary.

    Returns:
        `[size]` float64.
    """
    table = torch.zeros(size, dtype=torch.float64)
    for token, index in tokenizer_json["model"]["vocab"].items():
        table[index] = len(token)
    for special in tokenizer_json["added_tokens"]:
        table[special["id"]] = 0
    return table
