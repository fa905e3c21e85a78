"""Checkpoints: Megatron-Core's sharded format, rolled in a scratch folder, loadable under any layout."""

import pickle
import shutil
import types
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core import dist_checkpointing  # noqa: E402 - after install

from model import parallel  # noqa: E402


def _metadata() -> dict[str, Any]:
    """Return how optimizer states are cut: by weight, so that another layout can take them up."""
    return {
        "distrib_optim_sharding_type": "fully_reshardable",
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel.data_parallel_group(),
    }


def save(path: Path, model: Any, optimizer: Any = None, scheduler: Any = None) -> None:
    """Write a checkpoint at `path`, whole or not at all; every rank calls this.

    Args:
        path: The folder to make.
        model: The bare model of this rank.
        optimizer: Its optimizer, or None to save weights alone.
        scheduler: Its learning-rate schedule.
    """
    partial = path.with_name(path.name + ".partial")
    if parallel.is_first():
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(_state(model, optimizer, scheduler), str(partial))
    dist.barrier()
    if parallel.is_first():
        _make_canonical(partial)
        partial.rename(path)
    dist.barrier()


class _ByValue(pickle.Pickler):
    """Writes equal values as equal bytes: which of them are one object in memory differs after a resume."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fast = True  # no memo


_PICKLE_BY_VALUE = types.SimpleNamespace(__name__="pickle_by_value", Pickler=_ByValue)
"""As much of a pickle module as torch.save asks for."""


def _make_canonical(checkpoint: Path) -> None:
    """Rewrite what depends on the process rather than the state: the folder's name, a random id, object identity."""
    file = checkpoint / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    metadata.storage_meta = None
    metadata.storage_data = dict(sorted(metadata.storage_data.items(), key=repr))  # the writers finish in any order
    with file.open("wb") as stream:
        _ByValue(stream).dump(metadata)
    common = torch.load(checkpoint / "common.pt", weights_only=False)
    torch.save(common, checkpoint / "common.pt", pickle_module=_PICKLE_BY_VALUE)


def load(path: Path, model: Any, optimizer: Any = None, scheduler: Any = None) -> None:
    """Load a checkpoint, written under any layout, into this rank's model, and its optimizer if one is given."""
    wanted = _state(model, optimizer, scheduler, is_loading=True)
    state = dist_checkpointing.load(wanted, str(path))
    model.load_state_dict(state["model"], strict=True)
    if optimizer is not None:
        with torch.no_grad():  # its in-place copies write into leaves that require gradients
            optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])


def _state(model: Any, optimizer: Any, scheduler: Any, is_loading: bool = False) -> dict[str, Any]:
    metadata = _metadata()
    state: dict[str, Any] = {"model": model.sharded_state_dict(metadata=metadata)}
    if optimizer is not None:
        state["optimizer"] = optimizer.sharded_state_dict(state["model"], is_loading=is_loading, metadata=metadata)
        state["scheduler"] = scheduler.state_dict()
    return state


class RollingCheckpoints:
    """The newest checkpoints of one run; older ones are deleted once a newer one is whole."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self._folder = folder
        self._keep = keep

    def path(self, step: int) -> Path:
        """Return where the checkpoint after a step stands."""
        return self._folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps that have a whole checkpoint, oldest first."""
        found = (path.name for path in self._folder.glob("step-*") if path.is_dir())
        return sorted(int(name.removeprefix("step-")) for name in found if not name.endswith(".partial"))

    def prune(self) -> None:
        """Delete all but the newest; rank 0 calls this."""
        for step in self.steps()[: -self._keep]:
            shutil.rmtree(self.path(step))
