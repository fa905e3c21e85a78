"""An exponential moving average of the weights, kept beside them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model import megatron

megatron.install()

from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace  # noqa: E402 - after install
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory  # noqa: E402
from megatron.core.dist_checkpointing.optimizer import (  # noqa: E402
    get_param_id_to_sharded_param_map,
    make_sharded_optimizer_tensor,
)
from megatron.core.dist_checkpointing.serialization import load_sharded_metadata  # noqa: E402


class WeightAverage:
    """The average, in float32, of this rank's weights after each step: a step leaves `decay` of it.

    It begins with the weights after the first step, as torch.optim.swa_utils.AveragedModel does. Where weights are
    bf16, their float32 master weights are averaged, unless replicas share those (ZeRO-1): then no process has them
    whole, and the bf16 weights are averaged instead.

    Args:
        modules: This rank's runs of layers, bare.
        decay: Between 0 and 1.
    """

    def __init__(self, modules: list[torch.nn.Module], decay: float) -> None:
        self._weights = [weight for module in modules for weight in module.parameters()]
        self._averages = [torch.zeros_like(weight, dtype=torch.float32) for weight in self._weights]
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are after a step."""
        keep = self._decay if self._updates else 0.0
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.lerp_(_master(weight), 1 - keep)
        self._updates += 1

    def weights_state_dict(self, model_state: dict[str, Any]) -> dict[str, Any]:
        """Return a model's sharded state with the averages in place of the weights, under the weights' keys.

        Args:
            model_state: `sharded_state_dict` of the modules, of one or of several in a dict.
        """
        average_of = dict(zip(map(id, self._weights), self._begun(), strict=True))

        def averaged(leaf: Any) -> Any:
            average = average_of.get(id(getattr(leaf, "data", None)))
            if average is None:
                return leaf
            if isinstance(leaf, ShardedTensorFactory):
                return replace(leaf, data=average)
            assert isinstance(leaf, ShardedTensor)
            return replace(leaf, data=average, dtype=average.dtype)

        state: dict[str, Any] = dict_list_map_outplace(averaged, model_state)
        return state

    def sharded_state_dict(self, model_state: dict[str, Any]) -> dict[str, Any]:
        """Return what a checkpoint needs to resume: the averages, under the weights' keys after `average.`.

        Args:
            model_state: As for `weights_state_dict`.
        """
        sharded = get_param_id_to_sharded_param_map(model_state, self._weights)
        averages = {
            index: make_sharded_optimizer_tensor(sharded[index], average, prefix="average")
            for index, average in enumerate(self._begun())
        }
        return {"updates": self._updates, "averages": averages}

    @torch.no_grad()
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a loaded state of the form of `sharded_state_dict`."""
        self._updates = state["updates"]
        for index, average in enumerate(self._averages):
            average.copy_(state["averages"][index])

    @torch.no_grad()
    def _begun(self) -> list[torch.Tensor]:
        """Return the averages, which before the first step are the weights."""
        if self._updates == 0:
            for average, weight in zip(self._averages, self._weights, strict=True):
                average.copy_(_master(weight))
        return self._averages


def without_missing(state: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return what is wanted of a checkpoint, without an average if it was written by a run that kept none.

    Args:
        state: A sharded state dict to be filled.
        path: The checkpoint.
    """
    if "average" not in state or any(key.startswith("average.") for key in load_sharded_metadata(str(path))):
        return state
    return {name: value for name, value in state.items() if name != "average"}


def _master(weight: Any) -> torch.Tensor:
    """Return a weight in the highest precision that this process has it whole in."""
    has_whole = getattr(weight, "main_param", None) is not None and not getattr(weight, "main_param_sharded", False)
    master: torch.Tensor = weight.main_param if has_whole else weight.float()
    return master
