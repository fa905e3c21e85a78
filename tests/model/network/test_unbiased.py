from typing import Any

import pytest

from model import parallel
from model.layout import LayoutSettings
from model.network.unbiased import UnbiasedColumnParallelLinear, UnbiasedRowParallelLinear
from tests.model.network.splitting import config, draw

HOW: dict[type, dict[str, Any]] = {
    UnbiasedColumnParallelLinear: {"gather_output": False, "skip_bias_add": False},
    UnbiasedRowParallelLinear: {"input_is_parallel": True, "skip_bias_add": True},
}


@pytest.mark.parametrize("kind", HOW)
def test_a_layer_has_no_bias_though_one_is_asked_for(kind: type) -> None:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        settings = config(LayoutSettings())
        linear: Any = kind(32, 16, config=settings, init_method=settings.init_method, bias=True, **HOW[kind])
        x = draw(5, 2, 32)
        out, bias = linear(x)
        assert (bias, linear.bias) == (None, None)
        assert (out - x @ linear.weight.t()).abs().max() < 1e-5
