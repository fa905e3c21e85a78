"""Linear layers through oneDNN against torch, on one process and over two."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import parallel
from model.layout import LayoutSettings
from model.network import gemm
from tests.model.two_processes import TwoProcesses

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")

WIDTHS = st.integers(1, 70)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(
    x: Tensor, weight: Tensor, group: dist.ProcessGroup | None = None, sequence_parallel: bool = False
) -> Tensor:
    allreduce = group is not None and not sequence_parallel
    return gemm.Linear.apply(x, weight, None, False, allreduce, sequence_parallel, None, None, group)


@settings(deadline=None, max_examples=40)
@given(s=st.integers(0, 9), b=st.integers(1, 3), width_in=WIDTHS, width_out=WIDTHS)
def test_the_layer_and_its_gradients_are_matrix_products_of_any_shape(
    s: int, b: int, width_in: int, width_out: int
) -> None:
    x, weight, upstream = draw(s, b, width_in), draw(width_out, width_in, seed=1), draw(s, b, width_out, seed=2)
    ours_x, ours_weight = x.float().requires_grad_(), weight.float().requires_grad_()
    out = linear(ours_x, ours_weight)
    gradients = torch.autograd.grad(out, (ours_x, ours_weight), upstream.float())
    expected = (x @ weight.t(), upstream @ weight, upstream.flatten(0, 1).t() @ x.flatten(0, 1))
    for mine, reference in zip((out, *gradients), expected, strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=1e-5, atol=1e-5)


def test_results_can_be_changed_in_place_by_what_follows() -> None:
    x, weight = draw(4, 2, 8).float().requires_grad_(), draw(6, 8).float()
    linear(x, weight).add_(1).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(("dtype", "ours"), [(torch.float32, True), (torch.bfloat16, False)])
def test_only_float32_leaves_megatron_cores_function(dtype: torch.dtype, ours: bool) -> None:
    out = linear(draw(4, 2, 8).to(dtype).requires_grad_(), draw(6, 8).to(dtype).requires_grad_())
    assert (type(out.grad_fn).__name__ == "_OneDnnLinearBackward") == ours


def check_column_parallel(sequence_parallel: bool) -> None:
    with parallel.processes(LayoutSettings(tensor_model_parallel_size=2), "cpu", num_threads=1, seed=0):
        rank, group = parallel.tensor_parallel_rank(), parallel.tensor_parallel_group()
        x, weight, upstream = draw(6, 2, 16), draw(10, 16, seed=1), draw(6, 2, 10, seed=2)
        own_x = (x.chunk(2)[rank] if sequence_parallel else x).float().requires_grad_()
        own_weight = weight.chunk(2)[rank].float().requires_grad_()
        out = linear(own_x, own_weight, group, sequence_parallel)
        gradients = torch.autograd.grad(out, (own_x, own_weight), upstream.chunk(2, dim=-1)[rank].float())
        grad_x = upstream @ weight
        expected = (
            (x @ weight.t()).chunk(2, dim=-1)[rank],
            grad_x.chunk(2)[rank] if sequence_parallel else grad_x,
            (upstream.flatten(0, 1).t() @ x.flatten(0, 1)).chunk(2)[rank],
        )
        for mine, reference in zip((out, *gradients), expected, strict=True):
            torch.testing.assert_close(mine.double(), reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sequence_parallel", [False, True])
def test_a_layer_split_over_two_processes_is_the_whole_layer(
    two_processes: TwoProcesses, sequence_parallel: bool
) -> None:
    two_processes(check_column_parallel, sequence_parallel)
