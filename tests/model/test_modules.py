from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import gemm
from model.modules import _SwiGLUFunction, rotate


def swiglu_by_definition(fused: Tensor) -> Tensor:
    gate, up = fused.chunk(2, dim=-1)
    return functional.silu(gate) * up


def rotation_by_definition(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * angles(x).cos() + torch.cat((-second, first), dim=-1) * angles(x).sin()


def angles(x: Tensor) -> Tensor:
    length, width = x.shape[0], x.shape[-1]
    frequencies = 10000 ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    half = torch.arange(length, dtype=x.dtype)[:, None, None, None] * frequencies
    return torch.cat((half, half), dim=-1)


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "swiglu": (_SwiGLUFunction.apply, swiglu_by_definition, (3, 2, 10)),
    "rotate": (lambda x: rotate(x, angles(x)), rotation_by_definition, (5, 2, 3, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_function_and_its_gradient_are_those_of_the_definition(name: str) -> None:
    ours, definition, shape = CASES[name]
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.allclose(ours(x), definition(x), atol=1e-12)
    assert torch.autograd.gradcheck(ours, (x,))


def test_a_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    x = torch.ones(6, 1, 1, 8, dtype=torch.float64)
    turned = rotate(x, angles(x)).squeeze()
    assert torch.allclose(turned.norm(dim=-1), x.squeeze().norm(dim=-1))
    assert torch.allclose(turned[1] @ turned[3], turned[2] @ turned[4])


def test_linear_layers_on_onednn_give_what_torch_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((5, 2, 24), (40, 24)))
    upstream = torch.randn(5, 2, 40, generator=generator)
    ours = gemm.Linear.apply(x, weight, None, False, False, False, None, None, None)
    ours_gradients = torch.autograd.grad(ours, (x, weight), upstream)
    theirs = x @ weight.t()
    theirs_gradients = torch.autograd.grad(theirs, (x, weight), upstream)
    assert "OneDnn" in type(ours.grad_fn).__name__
    for mine, reference in zip((ours, *ours_gradients), (theirs, *theirs_gradients), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)
