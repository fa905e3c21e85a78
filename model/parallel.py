"""Processes and their groups. The only file that touches Megatron-Core's parallel_state."""

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core import parallel_state  # noqa: E402 - after install
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402

from model.settings import LayoutSettings  # noqa: E402
from stages.errors import UserError  # noqa: E402


@contextlib.contextmanager
def processes(
    layout: LayoutSettings, device: str, num_threads: int, seed: int, alone: bool = False
) -> Iterator[torch.device]:
    """Join the process group that torchrun describes (or make one of one process) and split it as `layout` says.

    Args:
        layout: The degrees.
        device: `cpu` or `cuda`.
        num_threads: CPU threads.
        seed: Of what is drawn inside.
        alone: Make a group of this one process even where torchrun describes more.

    Yields:
        The device of this process.

    Raises:
        UserError: The number of processes is not the layout's, or the device is not there.
    """
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs time
    own = _join(device, alone)
    if dist.get_world_size() != layout.world_size:
        raise UserError(
            f"pretrain.layout needs {layout.world_size} processes, but {dist.get_world_size()} were started; "
            "start as many as the product of its degrees"
        )
    parallel_state.initialize_model_parallel(layout.tensor_model_parallel_size)
    try:
        torch.manual_seed(seed)
        model_parallel_cuda_manual_seed(seed)
        yield own
    finally:
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()


def _join(device: str, alone: bool) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError('pretrain.device = "cuda", but torch sees no GPU here; set it to "cpu" or install a CUDA build')
    backend = "nccl" if device == "cuda" else "gloo"
    if "RANK" in os.environ and not alone:
        own = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device("cpu")
        dist.init_process_group(backend)
    else:
        own = torch.device(device, 0) if device == "cuda" else torch.device("cpu")
        dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    if device == "cuda":
        torch.cuda.set_device(own)
    return own


def is_first() -> bool:
    """Return whether this process speaks and writes for all."""
    return dist.get_rank() == 0


def data_parallel_rank() -> int:
    """Return which share of every batch is this process's."""
    return int(parallel_state.get_data_parallel_rank())


def tensor_parallel_rank() -> int:
    """Return which shard of every matrix is this process's."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def data_parallel_group() -> dist.ProcessGroup:
    """Return the processes that hold the same weights."""
    group: dist.ProcessGroup = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return group


def tensor_parallel_group() -> dist.ProcessGroup:
    """Return the processes that share each matrix."""
    group: dist.ProcessGroup = parallel_state.get_tensor_model_parallel_group()
    return group


def mean_over_replicas(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the data-parallel processes; `value` is overwritten."""
    dist.all_reduce(value, group=data_parallel_group())
    return value / dist.get_world_size(data_parallel_group())
