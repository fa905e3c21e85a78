from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import megatron

megatron.install()

from megatron.core.tensor_parallel import RowParallelLinear  # noqa: E402 - after install

from model import parallel  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.network.post_norm import with_norm_behind  # noqa: E402
from tests.model.network.splitting import LAYOUTS, check_gradients, config, draw, fill, leaves, own_part  # noqa: E402
from tests.model.two_processes import TwoProcesses  # noqa: E402

IN, OUT = 48, 32


def linear(layout: LayoutSettings) -> Any:
    settings = config(layout, normalization="RMSNorm")
    how = {"init_method": settings.init_method, "input_is_parallel": True, "skip_bias_add": True}
    return with_norm_behind(RowParallelLinear)(IN, OUT, config=settings, bias=False, **how)


def by_definition(x: Tensor, weight: Tensor, norm: Tensor) -> Tensor:
    return functional.rms_norm(x @ weight.t(), (OUT,), norm, 0.1)


def check(layout: LayoutSettings) -> None:
    """Compare this process's output, and the gradients of its input and weights, with those of the whole."""
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        weights = leaves(**{"weight": (OUT, IN), "post_layernorm.weight": (OUT,)})
        whole, upstream = draw(6, 2, IN).requires_grad_(), draw(6, 2, OUT, seed=9)
        expected = by_definition(whole, *weights.values())
        expected.backward(upstream)
        assert whole.grad is not None
        module = linear(layout)
        fill(module, weights)
        own = own_part(whole.detach(), 2).requires_grad_()
        out, bias = module(own)
        assert bias is None
        if layout.sequence_parallel:
            expected, upstream = own_part(expected, 0), own_part(upstream, 0)
        out.backward(upstream)
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(own.grad, own_part(whole.grad, 2), rtol=1e-5, atol=1e-5)
        check_gradients(module, weights)


def test_the_norm_is_of_the_whole_output() -> None:
    check(LayoutSettings())


@pytest.mark.parametrize("layout", LAYOUTS, ids=["", "sequence"])
def test_processes_norm_the_sum_of_their_outputs(two_processes: TwoProcesses, layout: LayoutSettings) -> None:
    two_processes(check, layout)


def check_shards(layout: LayoutSettings) -> None:
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        rank, size = parallel.tensor_parallel_rank(), layout.tensor_model_parallel_size
        metadata = {"dp_cp_group": parallel.data_parallel_group()}
        shards = linear(layout).sharded_state_dict("proj.", metadata=metadata)
        matrix, norm = shards["proj.weight"], shards["proj.post_layernorm.weight"]
        assert (matrix.global_shape, matrix.global_offset) == ((OUT, IN), (0, rank * IN // size))
        assert (norm.global_shape, norm.local_shape) == ((OUT,), (OUT,))


def test_a_checkpoint_has_the_matrix_in_shards_and_the_norm_whole(two_processes: TwoProcesses) -> None:
    check_shards(LayoutSettings())
    two_processes(check_shards, LAYOUTS[0])
