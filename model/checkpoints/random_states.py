"""The states of every random generator of a process, for a checkpoint that continues with the same draws."""

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model import megatron

megatron.install()

from megatron.core.dist_checkpointing.mapping import ShardedObject  # noqa: E402 - after install
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata  # noqa: E402
from megatron.core.tensor_parallel.random import get_cuda_rng_tracker  # noqa: E402

from model import parallel  # noqa: E402


def sharded() -> ShardedObject:
    """Return this process's states as its part of a checkpoint."""
    degrees = parallel.coordinates()
    shape, offset = tuple(size for _, size in degrees), tuple(rank for rank, _ in degrees)
    return ShardedObject("random_states", _states(), shape, offset)


def _states() -> dict[str, Any]:
    return {
        "python": pickle.dumps(random.getstate()),
        "numpy": pickle.dumps(np.random.get_state(legacy=False)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "tracker": {name: state.clone() for name, state in get_cuda_rng_tracker().get_states().items()},
    }


def without_foreign(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what is wanted of a checkpoint, without random states if another layout wrote it: they belong to ranks.

    Args:
        state: A sharded state dict to be filled.
        path: The checkpoint.
    """
    own = state.get("random_states")
    if own is None or own.unique_key in load_sharded_metadata(str(path)):
        return state
    return {name: value for name, value in state.items() if name != "random_states"}


def restore(states: dict[str, Any]) -> None:
    """Continue with what `sharded` held."""
    random.setstate(pickle.loads(states["python"]))
    np.random.set_state(pickle.loads(states["numpy"]))
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"])
    get_cuda_rng_tracker().set_states(states["tracker"])
