"""Linear layers on a CPU through oneDNN, which torch keeps for inference in float32.

torch's own float32 matmul is MKL's. On an AMD CPU with AVX-512, oneDNN's is 1.4 to 2.2 times as fast in the forward and
in the gradient of the input; for the gradient of the weight, whose operands are transposed, MKL's stays. Same sums in
another order: results differ from MKL's in the last bits, and are equal from run to run.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.tensor_parallel import layers  # noqa: E402 - after install

_MEGATRON_LINEAR = layers.LinearWithGradAccumulationAndAsyncCommunication


def install() -> None:
    """Put `Linear` in the place of Megatron-Core's autograd function for linear layers."""
    layers.LinearWithGradAccumulationAndAsyncCommunication = Linear


class Linear:
    """Chooses for each call: oneDNN where it serves, else Megatron-Core's function."""

    @staticmethod
    def apply(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gradient_accumulation_fusion: bool,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        grad_output_buffer: list[Tensor] | None,
        wgrad_deferral_limit: int | None,
        tp_group: dist.ProcessGroup | None,
    ) -> Tensor:
        """Return `x @ weight.T`, with the signature of Megatron-Core's function.

        Args:
            x: `[s, b, in]`.
            weight: `[out / tensor-parallel size, in]` of a column-parallel layer, or the like.
            bias: Added to the result, or None.
            gradient_accumulation_fusion: Add the weight's gradient to `main_grad` in its GEMM.
            allreduce_dgrad: Sum the gradient of `x` over the group.
            sequence_parallel: `x` is split along `s`.
            grad_output_buffer: Where output gradients wait for a deferred weight gradient.
            wgrad_deferral_limit: How many may wait.
            tp_group: The tensor-parallel processes.
        """
        special = (
            gradient_accumulation_fusion or sequence_parallel or grad_output_buffer is not None or bias is not None
        )
        out: Tensor
        if special or x.device.type != "cpu" or x.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            out = _MEGATRON_LINEAR.apply(
                x,
                weight,
                bias,
                gradient_accumulation_fusion,
                allreduce_dgrad,
                sequence_parallel,
                grad_output_buffer,
                wgrad_deferral_limit,
                tp_group,
            )
        else:
            out = _OneDnnLinear.apply(x, weight, tp_group if allreduce_dgrad else None)
        return out


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return _matmul_transposed(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x = _matmul_transposed(grad, weight.t())
        summed = dist.all_reduce(grad_x, group=ctx.group, async_op=True) if ctx.group is not None else None
        grad_weight = grad.flatten(0, -2).t().matmul(x.flatten(0, -2))
        if summed is not None:
            summed.wait()
        return grad_x, grad_weight, None


def _matmul_transposed(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x @ weight.T` in float32; the operator is the one torch.compile emits for a linear layer."""
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x.flatten(0, -2), weight, None, "none", [], "")
    # As torch.matmul does: a plain view of a new tensor could not be changed in place, which the loss does.
    shaped: Tensor = torch.ops.aten._unsafe_view(out, [*x.shape[:-1], weight.shape[0]])
    return shaped
