import pytest
import torch
from torch.nn import functional

from model.network.norm import RMSNorm


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("shape", [(5, 3, 16), (1, 16), (4, 2, 3, 16)])
def test_the_norm_and_its_gradients_are_torchs(dtype: torch.dtype, tolerance: float, shape: tuple[int, ...]) -> None:
    norm = RMSNorm(16, eps=0.1, dtype=dtype)
    x, upstream = draw(*shape).to(dtype).requires_grad_(), draw(*shape, seed=1).to(dtype)
    norm.weight.data = draw(16, seed=2).to(dtype)
    out = norm(x)
    assert "RMSNormFunction" in type(out.grad_fn).__name__
    exact_x, weight = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    exact = functional.rms_norm(exact_x, (16,), weight, 0.1)
    ours = (out, *torch.autograd.grad(out, (x, norm.weight), upstream))
    theirs = (exact, *torch.autograd.grad(exact, (exact_x, weight), upstream.double()))
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - reference).norm() <= tolerance * reference.norm()
