"""The model that is not split, in one process: where weights are first made, and from where they are exported."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model import megatron

megatron.install()

from megatron.core.dist_checkpointing.mapping import ShardedTensor  # noqa: E402 - after install

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
