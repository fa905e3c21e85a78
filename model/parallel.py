"""Processes and their groups. The only file that touches Megatron-Core's parallel_state."""

import contextlib
import os
import random
from collections.abc import Iterator

import numpy as np
import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core import parallel_state  # noqa: E402 - after install
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # noqa: E402

from model.launching import memory  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from stages.errors import UserError  # noqa: E402

_REPEATABLE_CUDA = {
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # as torch.use_deterministic_algorithms asks
    "NCCL_ALGO": "^NVLS",  # as Megatron-LM's deterministic mode does: no sums in the switch
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # kernels start in order, so that what overlaps is what Megatron-Core meant
}


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
    if device == "cpu":
        memory.keep_freed()
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a debugging aid that costs time
    own = _join(device, alone)
    try:
        if dist.get_world_size() != layout.world_size:
            raise UserError(
                f"pretrain.layout needs {layout.world_size} processes, but {dist.get_world_size()} were started; "
                "start as many as the product of its degrees"
            )
        with split(layout, seed):
            yield own
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def split(layout: LayoutSettings, seed: int) -> Iterator[None]:
    """Make the groups of a layout out of the processes that have met.

    Args:
        layout: The degrees.
        seed: Of what is drawn inside.
    """
    virtual = layout.virtual_pipeline_model_parallel_size
    parallel_state.initialize_model_parallel(
        layout.tensor_model_parallel_size,
        layout.pipeline_model_parallel_size,
        virtual if virtual > 1 else None,
        context_parallel_size=layout.context_parallel_size,
        expert_model_parallel_size=layout.expert_model_parallel_size,
        expert_tensor_parallel_size=1,
        create_gloo_process_groups=False,  # for checkpoints in a form that is not used here
    )
    try:
        torch.manual_seed(seed)
        model_parallel_cuda_manual_seed(seed)
        yield
    finally:
        parallel_state.destroy_model_parallel()


def _join(device: str, alone: bool) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError('pretrain.device = "cuda", but torch sees no GPU here; set it to "cpu" or install a CUDA build')
    if device == "cuda":
        os.environ |= _REPEATABLE_CUDA
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


def seed_training(seed: int) -> None:
    """Seed every generator for dropout: replicas, parts of a sequence and pipeline stages each draw their own.

    Tensor-parallel processes share the draws for what they replicate; Megatron-Core's tracker has the others.
    """
    own = seed + 1_000_003 * (replica_rank() * pipeline_size() + pipeline_rank())  # far from the tracker's offsets
    random.seed(own)
    np.random.seed(own % 2**32)
    torch.manual_seed(own)
    model_parallel_cuda_manual_seed(own)


def is_first() -> bool:
    """Return whether this process speaks and writes for all."""
    return dist.get_rank() == 0


def tensor_parallel_rank() -> int:
    """Return which shard of every matrix is this process's."""
    return int(parallel_state.get_tensor_model_parallel_rank())


def data_parallel_rank() -> int:
    """Return which share of every batch is this process's."""
    return int(parallel_state.get_data_parallel_rank())


def data_parallel_size() -> int:
    """Return into how many shares a batch is split."""
    return int(parallel_state.get_data_parallel_world_size())


def context_parallel_rank() -> int:
    """Return which part of every sequence is this process's."""
    return int(parallel_state.get_context_parallel_rank())


def context_parallel_size() -> int:
    """Return into how many parts a sequence is split."""
    return int(parallel_state.get_context_parallel_world_size())


def coordinates() -> list[tuple[int, int]]:
    """Return this process's rank and the size of each degree: pipeline, tensor, data, context."""
    return [
        (pipeline_rank(), pipeline_size()),
        (tensor_parallel_rank(), int(parallel_state.get_tensor_model_parallel_world_size())),
        (data_parallel_rank(), data_parallel_size()),
        (context_parallel_rank(), context_parallel_size()),
    ]


def pipeline_rank() -> int:
    """Return which stage of the pipeline this process is."""
    return int(parallel_state.get_pipeline_model_parallel_rank())


def pipeline_size() -> int:
    """Return how many stages the pipeline has."""
    return int(parallel_state.get_pipeline_model_parallel_world_size())


def replica_rank() -> int:
    """Return the place of this process among those that hold the same weights."""
    return int(parallel_state.get_data_parallel_rank(with_context_parallel=True))


def is_first_stage(vp_stage: int | None = None) -> bool:
    """Return whether this process (or its run of layers `vp_stage`) has the embedding."""
    return bool(parallel_state.is_pipeline_first_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage))


def is_last_stage(vp_stage: int | None = None) -> bool:
    """Return whether this process (or its run of layers `vp_stage`) has the output layer."""
    return bool(parallel_state.is_pipeline_last_stage(ignore_virtual=vp_stage is None, vp_stage=vp_stage))


def tensor_parallel_group() -> dist.ProcessGroup:
    """Return the processes that share each matrix."""
    group: dist.ProcessGroup = parallel_state.get_tensor_model_parallel_group()
    return group


def data_parallel_group() -> dist.ProcessGroup:
    """Return the processes that hold the same weights, but for those of experts: other data, or other parts of it."""
    group: dist.ProcessGroup = parallel_state.get_data_parallel_group(with_context_parallel=True)
    return group


def batch_parallel_group() -> dist.ProcessGroup:
    """Return the processes that hold the same weights and the same part of other sequences."""
    group: dist.ProcessGroup = parallel_state.get_data_parallel_group()
    return group


def context_parallel_group() -> dist.ProcessGroup:
    """Return the processes that share each sequence."""
    group: dist.ProcessGroup = parallel_state.get_context_parallel_group()
    return group


def expert_parallel_group() -> dist.ProcessGroup:
    """Return the processes that share the experts."""
    group: dist.ProcessGroup = parallel_state.get_expert_model_parallel_group()
    return group


def expert_data_parallel_group() -> dist.ProcessGroup:
    """Return the processes that hold the same experts."""
    group: dist.ProcessGroup = parallel_state.get_expert_data_parallel_group()
    return group


def pipeline_group() -> dist.ProcessGroup:
    """Return the stages of this process's pipeline."""
    group: dist.ProcessGroup = parallel_state.get_pipeline_model_parallel_group()
    return group


def embedding_group() -> dist.ProcessGroup | None:
    """Return the first and last pipeline stage, which hold a tied embedding twice; None elsewhere."""
    first_or_last = is_first_stage() or is_last_stage()
    group: dist.ProcessGroup | None = parallel_state.get_embedding_group() if first_or_last else None
    return group


def mean_over_replicas(value: torch.Tensor) -> torch.Tensor:
    """Return the mean of a tensor over the data- and context-parallel processes; `value` is overwritten."""
    dist.all_reduce(value, group=data_parallel_group())
    return value / dist.get_world_size(data_parallel_group())


def from_last_stage(value: torch.Tensor) -> torch.Tensor:
    """Return, on every pipeline stage, the tensor of the last; `value` is overwritten elsewhere."""
    if pipeline_size() > 1:
        last: int = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(value, src=last, group=pipeline_group())
    return value
