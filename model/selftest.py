"""Checks of a parallel layout before it trains a step, and of its replicas while it does.

A wrong seed or a wrong mark on a weight makes every tensor-parallel rank draw the same shard, every stage the same
layers, or every rank the same experts; or it lets replicas drift apart. All of that trains, and all of it wastes the
run. SmolLM3 restarted after a trillion tokens for it.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from model import parallel

T = TypeVar("T")


def check_layout(modules: Sequence[torch.nn.Module]) -> None:
    """Check that what is split over ranks differs between them, and that everything else is equal. Every rank calls it.

    Args:
        modules: This rank's runs of layers, on any device.

    Raises:
        RuntimeError: On every rank, naming the weights that break the rule.
    """
    digests = _digests(modules)
    faults = [*_replica_faults(modules, digests), *_tensor_faults(modules, digests), *_expert_faults(modules, digests)]
    faults += [*_stage_faults(modules, digests), *_tie_faults(modules)]
    _raise("the parallel layout is broken before step 1", faults)


def check_replicas(modules: Sequence[torch.nn.Module]) -> None:
    """Check that replicas still hold the same weights. Every rank calls it.

    Raises:
        RuntimeError: On every rank, naming the weights that differ.
    """
    _raise("replicas have drifted apart", list(_replica_faults(modules, _digests(modules))))


def _raise(what: str, faults: list[str]) -> None:
    found: list[list[str]] = _gather(faults, None)
    if every := sorted(set(itertools.chain(*found))):
        raise RuntimeError(f"{what}: " + "; ".join(every))


def _weights(modules: Sequence[torch.nn.Module]) -> dict[str, Any]:
    """Return this rank's weights under names that no two of its own share and that are the same on its replicas."""
    stage = f"stage {parallel.pipeline_rank()}" if parallel.pipeline_size() > 1 else ""
    return {
        " ".join(filter(None, (stage, f"run {index}" if len(modules) > 1 else "", name))): weight
        for index, module in enumerate(modules)
        for name, weight in module.named_parameters()
    }


def _digests(modules: Sequence[torch.nn.Module]) -> dict[str, str]:
    return {name: _digest(weight) for name, weight in _weights(modules).items()}


def _digest(weight: torch.Tensor) -> str:
    data = weight.detach().cpu().contiguous().view(torch.uint8).numpy()
    return hashlib.sha256(data.tobytes()).hexdigest()


def _gather(value: T, group: dist.ProcessGroup | None) -> list[T]:
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def _is_expert(weight: Any) -> bool:
    return not getattr(weight, "allreduce", True)  # Megatron-Core's mark


def _constant(weight: torch.Tensor) -> bool:
    """Return whether all elements are equal, as in norms and biases at the start."""
    return bool((weight == weight.flatten()[0]).all())


def _replica_faults(modules: Sequence[torch.nn.Module], digests: dict[str, str]) -> Iterator[str]:
    everywhere = _gather(digests, parallel.data_parallel_group())
    experts = _gather(digests, parallel.expert_data_parallel_group())
    for name, weight in _weights(modules).items():
        if len({digest[name] for digest in (experts if _is_expert(weight) else everywhere)}) > 1:
            yield f"{name} differs between data-parallel replicas"


def _tensor_faults(modules: Sequence[torch.nn.Module], digests: dict[str, str]) -> Iterator[str]:
    ranks = _gather(digests, parallel.tensor_parallel_group())
    for name, weight in _weights(modules).items():
        different = len({digest[name] for digest in ranks})
        if _is_expert(weight):
            continue  # whole, and on the ranks that the expert-parallel group says
        if not getattr(weight, "tensor_model_parallel", False):
            if different > 1:
                yield f"{name} is replicated, but differs between tensor-parallel ranks"
        elif different < len(ranks) and not _constant(weight):
            yield f"{name} is split over tensor-parallel ranks, but two ranks hold the same shard"


def _expert_faults(modules: Sequence[torch.nn.Module], digests: dict[str, str]) -> Iterator[str]:
    ranks = _gather(digests, parallel.expert_parallel_group())
    for name, weight in _weights(modules).items():
        if _is_expert(weight) and len({digest[name] for digest in ranks}) < len(ranks):
            yield f"{name} is of other experts on every expert-parallel rank, but two ranks hold the same"


def _stage_faults(modules: Sequence[torch.nn.Module], digests: dict[str, str]) -> Iterator[str]:
    """Yield which layers of any stage and run are copies of each other."""
    weights = _weights(modules)
    own = {name: digest for name, digest in digests.items() if ".layers." in name and not _constant(weights[name])}
    seen: dict[str, str] = {}
    for name, digest in (item for stage in _gather(own, parallel.pipeline_group()) for item in stage.items()):
        if digest in seen:
            yield f"{name} and {seen[digest]} hold the same values"
        seen[digest] = name


def _tie_faults(modules: Sequence[Any]) -> Iterator[str]:
    group = parallel.embedding_group()
    if group is None or not modules[0].share_embeddings_and_output_weights:
        return
    tied = modules[0] if parallel.is_first_stage() else modules[-1]
    if len(set(_gather(_digest(tied.shared_embedding_or_output_weight()), group))) > 1:
        yield "the tied embedding differs between the first and the last pipeline stage"


if __name__ == "__main__":
    from model.determinism import main

    main()
