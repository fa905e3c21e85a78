"""What a checkpoint holds of an optimizer: the same under every layout.

Megatron-Core's optimizers (of float32 weights, of bf16 weights, with states shared by replicas) each save a form of
their own. Their tensors have the same names, and of the rest only the number of steps is not in the settings.
"""

from dataclasses import replace
from typing import Any

import torch

from model import megatron

megatron.install()

from megatron.core.dist_checkpointing.mapping import LocalNonpersistentObject  # noqa: E402 - after install
from megatron.core.optimizer import ChainedOptimizer  # noqa: E402
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer  # noqa: E402

from model import parallel  # noqa: E402

_SHARDING = "fully_reshardable"


def metadata() -> dict[str, Any]:
    """Return how Megatron-Core is to cut states: by weight, so that another layout can take them up."""
    return {
        "distrib_optim_sharding_type": _SHARDING,
        "chained_optim_avoid_prefix": True,
        "dp_cp_group": parallel.data_parallel_group(),
    }


def sharded(optimizer: ChainedOptimizer, weights: dict[str, Any], is_loading: bool) -> dict[str, Any]:
    """Return this rank's part of the optimizer's state.

    Args:
        optimizer: Of which weights.
        weights: Their sharded state dict.
        is_loading: Whether it is to be filled from a checkpoint.
    """
    chained = enumerate(optimizer.chained_optimizers)
    tensors = {index: _tensors(one, weights, is_loading) for index, one in chained}
    return {"step": max((group.get("step", 0) for group in optimizer.param_groups), default=0), "tensors": tensors}


def _tensors(optimizer: Any, weights: dict[str, Any], is_loading: bool) -> dict[str, Any]:
    state: dict[str, Any] = optimizer.sharded_state_dict(weights, is_loading=is_loading, metadata=metadata())
    if not isinstance(optimizer, DistributedOptimizer):
        state.get("optimizer", state).pop("param_groups")
        return state
    for weight, tensors in zip(_weights(optimizer), state["param_state"].values(), strict=True):
        tensors["fp32_param"] = _master(weight, tensors.pop("param"))
    return {"param_state": state["param_state"]}


def _master(weight: torch.Tensor, saved: Any) -> Any:
    """Return the float32 copy of a weight as Megatron-Core's other optimizers save it: not at all of a float32 one."""
    if weight.dtype == torch.float32:
        return LocalNonpersistentObject(weight)
    return replace(saved, key=saved.key.replace("optimizer.state.param.", "optimizer.state.fp32_param.", 1))


def _weights(optimizer: DistributedOptimizer) -> list[torch.Tensor]:
    """Return the weights in the order in which their states are saved."""
    return [weight for buffer in optimizer.buffers for weight in buffer.param_index_map]


@torch.no_grad()  # in-place copies write into leaves that require gradients
def load(optimizer: ChainedOptimizer, state: dict[str, Any]) -> None:
    """Go on from a loaded state of the form of `sharded`, after the weights were loaded."""
    for index, one in enumerate(optimizer.chained_optimizers):
        groups = one.optimizer.state_dict()["param_groups"]
        for group in groups:
            if "betas" in group and state["step"]:
                group["step"] = state["step"]
        own = state["tensors"][index]
        if isinstance(one, DistributedOptimizer):
            own |= {"optimizer": {"param_groups": groups}, "param_state_sharding_type": _SHARDING}
        else:
            own.get("optimizer", own)["param_groups"] = groups
        one.load_state_dict(own)


@torch.no_grad()
def reset(optimizer: ChainedOptimizer) -> None:
    """Begin anew from the weights as they are."""
    for one in optimizer.chained_optimizers:
        for tensors in one.optimizer.state.values():
            for tensor in tensors.values():
                tensor.zero_()
        for group in one.optimizer.param_groups:
            group.pop("step", None)
    optimizer.reload_model_params()
