"""Training samples and validation windows as tensors."""

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model import parallel
from model.data.index_cache import IndexCache
from model.data.order import Order
from model.data.prefetch import Prefetcher
from model.data.shard import TokenShard
from model.job import Job
from model.plan import Step
from stages.errors import UserError

Array = NDArray[Any]


class Batch(NamedTuple):
    """What one forward pass takes."""

    tokens: torch.Tensor
    """`[b, s]` int64."""
    labels: torch.Tensor
    """`[b, s]` int64, the tokens one later."""
    positions: torch.Tensor
    """`[b, s]` int64: places in the sequence, or in the document under a document mask."""
    attention_mask: torch.Tensor | None
    """`[b, 1, s, s]` bool, True where a query (third axis) may attend to a key; None is causal and all."""


class _Host(NamedTuple):
    """A batch before it goes to the device, `[b, s]` each."""

    tokens: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    documents: torch.Tensor | None
    """int32, equal where two inputs of a row are of one document; None without a document mask."""

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "_Host":
        documents = None if self.documents is None else change(self.documents)
        return _Host(change(self.tokens), change(self.labels), change(self.positions), documents)


def _host(tokens: Array, labels: Array, documents: Array | None) -> _Host:
    places = np.tile(np.arange(tokens.shape[1]), (len(tokens), 1))
    if documents is None:
        return _Host(_tensor(tokens), _tensor(labels), _tensor(places), None)
    begins = np.zeros_like(places)
    begins[:, 1:] = np.where(documents[:, 1:] != documents[:, :-1], places[:, 1:], 0)
    places = places - np.maximum.accumulate(begins, axis=1)
    return _Host(_tensor(tokens), _tensor(labels), _tensor(places), _tensor(documents))


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _batch(host: _Host, device: torch.device) -> Batch:
    if device.type == "cuda":
        host = host.map(torch.Tensor.pin_memory)  # so that the copy does not wait for the step in progress
    tokens, labels, positions, documents = host.map(lambda tensor: tensor.to(device, non_blocking=True))
    if documents is None:
        return Batch(tokens, labels, positions, None)
    order = torch.arange(documents.shape[1], device=device)
    mask = (documents[:, :, None] == documents[:, None, :]) & (order[:, None] >= order)
    return Batch(tokens, labels, positions, mask[:, None])


class _MicroBatch(NamedTuple):
    """Which samples a micro batch of this replica is."""

    step: int
    micro_step: int
    skipped: int


class TrainingData:
    """The training samples of a run, in the order of its data seed (`model.data.order`).

    Args:
        job: Data, phases, layout and seed.
        cache: Folder for index arrays.
        workers: Threads that read ahead of the step; 0 reads in the step.

    Raises:
        UserError: A shard is missing or damaged.
    """

    def __init__(self, job: Job, cache: Path, workers: int) -> None:
        self._plan = job.plan
        self._order = Order(job, IndexCache(cache))
        settings = job.pretrain
        self._size, self._replicas = settings.micro_batch_size, settings.layout.data_parallel_size
        self._document_mask = settings.document_mask
        self._replica = parallel.data_parallel_rank()
        self._prefetcher = Prefetcher(self._load, self._following, workers)

    def micro_batches(self, step: Step, skipped: int, device: torch.device) -> Iterator[Batch]:
        """Yield this replica's micro batches of a step.

        Args:
            step: Of the job's plan.
            skipped: Samples of the step's phase that were left out by roll-backs.
            device: Where the batches go.
        """
        for micro_step in range(self._micro_steps(step)):
            host = self._prefetcher.take(_MicroBatch(step.number, micro_step, skipped))
            yield _batch(host, device)

    def close(self) -> None:
        """End the threads that read ahead."""
        self._prefetcher.close()

    def _micro_steps(self, step: Step) -> int:
        return step.global_batch_size // (self._size * self._replicas)

    def _following(self, request: _MicroBatch) -> _MicroBatch | None:
        step = self._plan.at(request.step)
        if request.micro_step + 1 < self._micro_steps(step):
            return request._replace(micro_step=request.micro_step + 1)
        if step.number == self._plan.steps:
            return None
        same_phase = self._plan.at(step.number + 1).phase == step.phase
        return _MicroBatch(step.number + 1, 0, request.skipped if same_phase else 0)

    def _load(self, request: _MicroBatch) -> _Host:
        """Read a micro batch. NumPy alone: a torch operation in a thread would start OpenMP threads of its own."""
        step = self._plan.at(request.step)
        micro_batch = request.micro_step * self._replicas + self._replica
        first = step.first_sample + request.skipped + micro_batch * self._size
        pieces = self._order.inputs_and_labels(step.phase, first, self._size)
        window = self._order.tokens(pieces).reshape(self._size, -1)
        documents = None
        if self._document_mask:
            lengths = pieces.end - pieces.start
            documents = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths).reshape(window.shape)[:, :-1]
        return _host(window[:, :-1], window[:, 1:], documents)


class ValidationData:
    """The first windows of a domain's validation shard, in shard order, without overlap.

    Args:
        prefix: The shard.
        seq_length: Inputs of a window, s.
        sequences: Windows at most.
        document_mask: Whether attention and positions are kept within documents.

    Raises:
        UserError: The shard is missing, damaged or shorter than a window.
    """

    def __init__(self, prefix: Path, seq_length: int, sequences: int, document_mask: bool = False) -> None:
        shard = TokenShard(prefix)
        documents = _leading_documents(shard, seq_length * sequences + 1)
        stream = np.concatenate(documents).astype(np.int64)
        count = min(sequences, (len(stream) - 1) // seq_length)
        if count < 1:
            raise UserError(
                f"the validation shard '{prefix}' has {len(stream)} tokens, fewer than model.seq_length = {seq_length} "
                "and one; lower it, or raise curate.split.validation"
            )
        marks = np.repeat(np.arange(len(documents), dtype=np.int32), list(map(len, documents)))
        shape, end = (count, seq_length), count * seq_length
        self._host = _host(
            stream[:end].reshape(shape),
            stream[1 : end + 1].reshape(shape),
            marks[:end].reshape(shape) if document_mask else None,
        )

    def batches(self, size: int, device: torch.device) -> Iterator[Batch]:
        """Yield the windows in batches of at most `size`."""
        for start in range(0, len(self._host.tokens), size):
            yield _batch(self._host.map(operator.itemgetter(slice(start, start + size))), device)


def _leading_documents(shard: TokenShard, count: int) -> list[Array]:
    """Return the first whole documents that hold `count` tokens, or all of them."""
    documents, total = [], 0
    for index in range(len(shard.lengths)):
        if total >= count:
            break
        documents.append(shard.tokens(index))
        total += len(documents[-1])
    return documents


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
