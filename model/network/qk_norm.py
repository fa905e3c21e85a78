"""A norm over all heads of a query or a key together, as OLMo 2 has it (Team OLMo 2025, arXiv 2501.00656)."""

from typing import Any

import torch
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.tensor_parallel import (  # noqa: E402 - after install
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.transformer_config import TransformerConfig  # noqa: E402
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint  # noqa: E402

from model import parallel  # noqa: E402
from model.network.norm import RMSNorm  # noqa: E402


class AllHeadsNorm(RMSNorm):
    """RMSNorm over the heads of all tensor-parallel processes, each of which has the weights of its own heads.

    Args:
        hidden_size: Width of a head.
        config: Megatron-Core's configuration of the model.
        eps: Added to the mean square.
        heads: Of all processes together: query heads, or query groups for a key.
    """

    def __init__(self, hidden_size: int, config: TransformerConfig, eps: float, heads: int) -> None:
        group = parallel.tensor_parallel_group()
        super().__init__(hidden_size * heads // group.size(), eps=eps, dtype=config.params_dtype)
        set_tensor_model_parallel_attributes(self.weight, True, 0, 1)
        self._group, self._width = group, hidden_size * heads

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of this process's heads, `[s, b, heads / tensor-parallel size, d]`."""
        own = x.flatten(-2)
        if self._group.size() == 1:
            return super().forward(own).view_as(x)
        assert self.eps is not None
        squares = own.to(torch.promote_types(x.dtype, torch.float32)).square().sum(-1, keepdim=True)
        mean = self._over_processes(squares) / self._width
        return (own * (mean + self.eps).rsqrt().to(x.dtype) * self.weight).view_as(x)

    def _over_processes(self, squares: Tensor) -> Tensor:
        """Return the sum over the tensor-parallel processes; so is its gradient, as every process uses it."""
        total = reduce_from_tensor_model_parallel_region(squares, group=self._group)
        summed: Tensor = copy_to_tensor_model_parallel_region(total, group=self._group)
        return summed

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,  # noqa: ARG002 - its signature
    ) -> dict[str, Any]:
        """Return the weight as Megatron-Core's checkpoints take it: split along its only dimension."""
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            self.state_dict(keep_vars=True),
            prefix,
            {"weight": 0},
            sharded_offsets,
            tp_group=self._group,
            dp_cp_group=parallel.data_parallel_group(),
        )
        return sharded
