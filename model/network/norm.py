"""RMSNorm on a CPU in half the passes over memory that autograd makes of torch's."""

from typing import Any

import torch
from torch import Tensor


class RMSNorm(torch.nn.RMSNorm):
    """RMSNorm (Zhang & Sennrich 2019) over the last dimension; on a GPU, torch's own kernel."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of `[..., h]`."""
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        assert self.eps is not None
        out: Tensor = _RMSNormFunction.apply(x, self.weight, self.eps)
        return out


class _RMSNormFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_().to(x.dtype)
        ctx.save_for_backward(x, inverse, weight)
        return torch.mul(x, inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, inverse, weight = ctx.saved_tensors
        normed = x * inverse
        product = (grad * normed).flatten(0, -2)
        grad_weight = product.sum(0)
        along = torch.mv(product, weight).div_(-len(weight)).view(inverse.shape)
        grad_x = torch.mul(grad, weight, out=product.view(x.shape))
        return grad_x.addcmul_(normed, along).mul_(inverse), grad_weight, None
