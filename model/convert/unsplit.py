"""The model that is not split, in one process: where weights are first made, and from where they are exported."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory  # noqa: E402 - after install

from model import parallel  # noqa: E402
from model.checkpoints import checkpoint  # noqa: E402
from model.families.family import ModelSettings  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.network.build import build_model  # noqa: E402
from model.network.decoder import Decoder  # noqa: E402

ONE = LayoutSettings()


@contextlib.contextmanager
def process(num_threads: int, seed: int = 0) -> Iterator[None]:
    """Make a group of this process alone, whatever job it is part of, and leave it again."""
    with parallel.processes(ONE, "cpu", num_threads, seed, alone=True):
        yield


def build(model: ModelSettings, vocab_size: int) -> Decoder:
    """Return the model in float32 on the CPU, with weights from the current seed."""
    return build_model(model, ONE, vocab_size)


def skeleton(model: ModelSettings, vocab_size: int) -> Decoder:
    """Return the model without memory for its weights, however large: names, shapes and places in a checkpoint."""
    with torch.device("meta"):
        return build(model, vocab_size)


@dataclass(frozen=True)
class Piece:
    """A part of a weight, as a checkpoint has it."""

    key: str
    """The tensor there, which holds the same weight of every layer."""
    shape: tuple[int, ...]
    """That tensor's sizes."""
    offset: tuple[int, ...]
    """Where the piece begins in it."""
    size: tuple[int, ...]
    """The piece's sizes, which begin with 1 for layer and expert."""
    stride: tuple[int, ...]
    """Its strides in the weight."""
    storage_offset: int
    """Where it begins in the weight."""

    def of(self, weight: Tensor) -> Tensor:
        """Return the piece of a contiguous weight, as a view."""
        return weight.as_strided(self.size, self.stride, self.storage_offset)


def pieces(decoder: Decoder) -> dict[str, list[Piece]]:
    """Return what each weight is cut into in a checkpoint, by its name in an unsplit model, which may be a skeleton."""
    found = {}
    for name, entry in weights(decoder)["model"].items():
        if isinstance(entry, ShardedTensorFactory):  # a fused gate and up is two
            found[name] = [_piece(part) for part in entry.build()]
        elif isinstance(entry, ShardedTensor):
            found[name] = [_piece(entry)]
    return found


def _piece(entry: ShardedTensor) -> Piece:
    data = entry.data[(None,) * entry.prepend_axis_num]
    return Piece(entry.key, entry.global_shape, entry.global_offset, data.shape, data.stride(), data.storage_offset())


def save(path: Path, decoder: Decoder) -> None:
    """Write the weights as a checkpoint for any layout, whole or not at all."""
    checkpoint.save(path, weights(decoder))


def load(path: Path, decoder: Decoder) -> None:
    """Fill the model with the weights of a checkpoint of any layout."""
    decoder.load_state_dict(checkpoint.load(path, weights(decoder))["model"], strict=True)


def weights(decoder: Decoder) -> dict[str, Any]:
    """Return the weights as a sharded state dict, with the names of a checkpoint of a run."""
    return {"model": decoder.sharded_state_dict(metadata={"dp_cp_group": parallel.data_parallel_group()})}


def shapes(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights in a checkpoint by name, but of a fused gate and up, which is in two pieces."""
    pieces = weights(decoder)["model"].values()
    return {piece.key: piece.global_shape for piece in pieces if isinstance(piece, ShardedTensor)}
