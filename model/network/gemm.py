"""Linear layers on a CPU through oneDNN, which torch keeps for inference in float32.

torch's own float32 matmul is MKL's. On an AMD CPU with AVX-512, oneDNN's is 1.4 to 1.7 times as fast, if the operand
on its left is contiguous. In the gradient of the weight neither operand is: the smaller one is copied. Same sums in
another order: results differ from MKL's in the last bits, and are equal from run to run.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.tensor_parallel import gather_from_sequence_parallel_region, layers  # noqa: E402 - after install

HAS_ONEDNN = torch.backends.mkldnn.is_available()
"""Whether torch was built with it."""
_MEGATRON_LINEAR = layers.LinearWithGradAccumulationAndAsyncCommunication


def install() -> None:
    """Put `Linear` in the place of Megatron-Core's autograd function for linear layers."""
    layers.LinearWithGradAccumulationAndAsyncCommunication = Linear


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x @ weight.T` of `[..., in]` and `[out, in]`."""
    if not _serves(x):
        return x.matmul(weight.t())
    linear = _opaque_linear if torch.compiler.is_compiling() else _linear
    out = linear(x.flatten(0, -2), weight)
    # As torch.matmul does: a plain view of a new tensor could not be changed in place, which some callers do.
    shaped: Tensor = torch.ops.aten._unsafe_view(out, [*x.shape[:-1], weight.shape[0]])
    return shaped


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    # The operator that torch.compile emits for a linear layer.
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


_opaque_linear = torch.library.custom_op(
    "openbase::linear", _linear, mutates_args=()
)  # Inductor wants constant weights
_opaque_linear.register_fake(lambda x, weight: x.new_empty(x.shape[0], weight.shape[0]))


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """Return `grad.T @ x`, `[out, in]`, of `[..., out]` and `[..., in]`; it may be a transposed view."""
    grad, x = grad.flatten(0, -2), x.flatten(0, -2)
    if not _serves(x):
        return grad.t().matmul(x)
    if x.shape[1] <= grad.shape[1]:
        return product(x.t().contiguous(), grad.t()).t()
    return product(grad.t().contiguous(), x.t())


def _serves(x: Tensor) -> bool:
    """Return whether oneDNN takes this operand: it refuses the empty one of an expert without tokens."""
    return HAS_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0


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
        special = gradient_accumulation_fusion or grad_output_buffer is not None or bias is not None
        out: Tensor
        if special or not _serves(x):
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
            if sequence_parallel:
                x = gather_from_sequence_parallel_region(x, group=tp_group)
            out = _OneDnnLinear.apply(x, weight, tp_group if allreduce_dgrad else None)
        return out


class _OneDnnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.group = group
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight.t())
        summed = dist.all_reduce(grad_x, group=ctx.group, async_op=True) if ctx.group is not None else None
        grad_weight = weight_gradient(grad, x)
        if summed is not None:
            summed.wait()
        return grad_x, grad_weight, None
