"""Checks of a parallel layout before it trains a step.

A wrong seed or a wrong mark on a weight makes every tensor-parallel rank draw the same shard, or lets
replicas drift apart; both train, and both waste the run. SmolLM3 restarted after a trillion tokens for it.
"""

import hashlib

import torch
import torch.distributed as dist

from model import parallel


def check_layout(model: torch.nn.Module) -> None:
    """Check that matrices split over ranks differ between them, and that all other weights are equal.

    Args:
        model: This rank's part, on any device.

    Raises:
        RuntimeError: On every rank, naming the weights that break the rule.
    """
    tensor_parallel = parallel.tensor_parallel_group()
    replicas = parallel.data_parallel_group()
    faults: list[str] = []
    for name, weight in model.named_parameters():
        digest = _digest(weight)
        if len(set(_gather(digest, replicas))) > 1:
            faults.append(f"{name} differs between data-parallel replicas")
        seen = _gather(digest, tensor_parallel)
        if getattr(weight, "tensor_model_parallel", False):
            if len(set(seen)) < len(seen) and not _constant(weight):
                faults.append(f"{name} is split over tensor-parallel ranks, but two ranks hold the same shard")
        elif len(set(seen)) > 1:
            faults.append(f"{name} is replicated, but differs between tensor-parallel ranks")
    if faults:
        raise RuntimeError("the parallel layout is broken before step 1: " + "; ".join(faults))


def _digest(weight: torch.Tensor) -> str:
    data = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(data.tobytes()).hexdigest()


def _gather(digest: str, group: dist.ProcessGroup) -> list[str]:
    digests = [""] * dist.get_world_size(group)
    dist.all_gather_object(digests, digest, group=group)
    return digests


def _constant(weight: torch.Tensor) -> bool:
    """Return whether all elements are equal, as in norms and biases at the start."""
    return bool((weight == weight.flatten()[0]).all())
