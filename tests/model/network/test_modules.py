from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import megatron

megatron.install()

from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402 - after install

from model import parallel  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.network import zigzag  # noqa: E402
from model.network.build import transformer_config  # noqa: E402
from model.network.modules import CausalAttention, Norm, _SwiGLUFunction, rotate  # noqa: E402
from model.settings import ModelSettings  # noqa: E402
from tests.model.two_processes import TwoProcesses  # noqa: E402


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


def partial_rotation(rotation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat((rotation(x[..., :4]), x[..., 4:]), dim=-1)


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "swiglu": (_SwiGLUFunction.apply, swiglu_by_definition, (3, 2, 10)),
    "rotate": (lambda x: rotate(x, angles(x)), rotation_by_definition, (5, 2, 3, 8)),
    "rotate half": (
        lambda x: rotate(x, angles(x[..., :4])),
        lambda x: partial_rotation(rotation_by_definition, x),
        (5, 2, 3, 8),
    ),
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


MODEL = ModelSettings(
    num_layers=1, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=12
)


def causal() -> Tensor:
    return torch.ones(12, 12, dtype=torch.bool).tril()


def two_documents() -> Tensor:
    mask = causal()
    mask[5:, :5] = False
    return mask.expand(2, 1, 12, 12)


def inputs() -> tuple[Tensor, ...]:
    """Query `[s, b, heads, d]`, key and value `[s, b, groups, d]`, and a gradient of the result."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((12, 2, 4, 8), (12, 2, 2, 8), (12, 2, 2, 8), (12, 2, 32))
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def attention_by_definition(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    key, value = (x.repeat_interleave(2, dim=2) for x in (key, value))
    scores = torch.einsum("sbhd,tbhd->bhst", query, key) / 8**0.5
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return torch.einsum("bhst,tbhd->sbhd", weights, value).flatten(2)


def attended(attend: Callable[..., Tensor], mask: Tensor | None, rank: int = 0, size: int = 1) -> list[Tensor]:
    """Return the result for a context-parallel rank's part, and the gradients of its part of the inputs."""
    *parts, upstream = (zigzag.cut(x, 0, rank, size).requires_grad_() for x in inputs())
    out = attend(*parts, mask)
    return [out.detach(), *torch.autograd.grad(out, parts, upstream)]


@pytest.mark.parametrize("mask", [None, two_documents()], ids=["causal", "documents"])
def test_attention_is_that_of_the_definition(mask: Tensor | None) -> None:
    ours = attended(CausalAttention(transformer_config(MODEL, LayoutSettings(), "float32")), mask)
    for found, expected in zip(
        ours, attended(attention_by_definition, causal() if mask is None else mask), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def check_context_parallel(mask: Tensor | None) -> None:
    layout = LayoutSettings(context_parallel_size=2)
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        rank = parallel.context_parallel_rank()
        groups = ProcessGroupCollection.use_mpu_process_groups(["cp"])
        attention = CausalAttention(transformer_config(MODEL, layout, "float32"), pg_collection=groups)
        own_rows = None if mask is None else zigzag.cut(mask, 2, rank, 2)
        ours = attended(attention, own_rows, rank, 2)
        whole = attended(attention_by_definition, causal() if mask is None else mask)
        for found, expected in zip(ours, whole, strict=True):
            torch.testing.assert_close(found, zigzag.cut(expected, 0, rank, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mask", [None, two_documents()], ids=["causal", "documents"])
def test_attention_over_two_processes_is_that_of_one(two_processes: TwoProcesses, mask: Tensor | None) -> None:
    two_processes(check_context_parallel, mask)


@pytest.mark.parametrize("normalization", ["RMSNorm", "LayerNorm"])
def test_every_weight_of_a_norm_is_marked_where_the_sequence_is_split(normalization: str) -> None:
    for layout in (LayoutSettings(), LayoutSettings(tensor_model_parallel_size=2, sequence_parallel=True)):
        config = transformer_config(MODEL, layout, "float32")
        config.normalization = normalization
        marks = {name: weight.sequence_parallel for name, weight in Norm(config, 32).named_parameters()}  # type: ignore[attr-defined]
        names = ["weight"] if normalization == "RMSNorm" else ["weight", "bias"]
        assert marks == dict.fromkeys(names, layout.sequence_parallel)
