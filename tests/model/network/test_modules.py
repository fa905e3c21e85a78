from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import megatron

megatron.install()

from megatron.core.process_groups_config import ProcessGroupCollection  # noqa: E402 - after install

from model import parallel  # noqa: E402
from model.families.llama import Llama  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.network import block_attention, modules, zigzag  # noqa: E402
from model.network.build import transformer_config  # noqa: E402
from model.network.modules import CausalAttention, Norm, _SwiGLUFunction, rotate  # noqa: E402
from tests.model.two_processes import TwoProcesses  # noqa: E402


def swiglu_by_definition(fused: Tensor) -> Tensor:
    gate, up = fused.chunk(2, dim=-1)
    return functional.silu(gate) * up


def rotation_by_definition(x: Tensor) -> Tensor:
    cos, sin = turns(x).chunk(2, dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def turns(x: Tensor) -> Tensor:
    length, width = x.shape[0], x.shape[-1]
    frequencies = 10000 ** (-torch.arange(0, width, 2, dtype=x.dtype) / width)
    half = torch.arange(length, dtype=x.dtype)[:, None, None, None] * frequencies
    return torch.cat((half.cos(), half.cos(), half.sin(), half.sin()), dim=-1)


def partial_rotation(rotation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat((rotation(x[..., :4]), x[..., 4:]), dim=-1)


CASES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "swiglu": (_SwiGLUFunction.apply, swiglu_by_definition, (3, 2, 10)),
    "rotate": (lambda x: rotate(x, turns(x)), rotation_by_definition, (5, 2, 3, 8)),
    "rotate half": (
        lambda x: rotate(x, turns(x[..., :4])),
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
    turned = rotate(x, turns(x)).squeeze()
    assert torch.allclose(turned.norm(dim=-1), x.squeeze().norm(dim=-1))
    assert torch.allclose(turned[1] @ turned[3], turned[2] @ turned[4])


MODEL = Llama(
    num_layers=1, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=12
)


def causal(window: int | None) -> Tensor:
    every = torch.ones(12, 12, dtype=torch.bool).tril()
    return every if window is None else every.triu(1 - window)


def two_documents() -> Tensor:
    mask = causal(None)
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


def attention(layout: LayoutSettings, window: int | None, **options: Any) -> CausalAttention:
    config = transformer_config(MODEL, layout, "float32")
    config.window_size = None if window is None else (window - 1, 0)
    return CausalAttention(config, **options)


def expected(mask: Tensor | None, window: int | None) -> list[Tensor]:
    return attended(attention_by_definition, causal(window) if mask is None else mask & causal(window))


MASKS = pytest.mark.parametrize("mask", [None, two_documents()], ids=["causal", "documents"])
WINDOWS = pytest.mark.parametrize("window", [None, 1, 4, 12])


@MASKS
@WINDOWS
@pytest.mark.parametrize("kernel", ["blocks", "torch"])
def test_attention_is_that_of_the_definition(
    mask: Tensor | None, window: int | None, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel == "torch":
        monkeypatch.setattr(block_attention, "_LONGEST", 0)
        monkeypatch.setattr(modules, "_FEWEST_QUERIES", 5)
    found = attended(attention(LayoutSettings(), window), mask)
    torch.testing.assert_close(found, expected(mask, window), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("longest", [0, 1024], ids=["torch", "blocks"])
def test_values_may_be_narrower_than_keys(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_attention, "_LONGEST", longest)
    query, key, value, _ = inputs()
    found = attention(LayoutSettings(), window=None)(query, key, value[..., :5])
    torch.testing.assert_close(found, attention_by_definition(query, key, value[..., :5], causal(None)))


def test_dropout_within_a_window_keeps_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_FEWEST_QUERIES", 5)
    dropping = attention(LayoutSettings(sequence_parallel=True, tensor_model_parallel_size=2), window=4)
    dropping.config.attention_dropout = 0.5
    query, key, value, _ = inputs()
    torch.manual_seed(0)
    mean = torch.stack([dropping(query, key, value) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, expected(None, 4)[0], rtol=0, atol=0.15)


def test_layers_have_a_window_or_not_as_the_configuration_says() -> None:
    config = transformer_config(MODEL, LayoutSettings(), "float32")
    config.window_size, config.window_attn_skip_freq = (3, 0), [1, 0, 1]
    assert [CausalAttention(config, layer_number=number).window for number in (1, 2, 3)] == [4, None, 4]


def check_context_parallel(mask: Tensor | None, window: int | None) -> None:
    layout = LayoutSettings(context_parallel_size=2)
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        rank = parallel.context_parallel_rank()
        groups = ProcessGroupCollection.use_mpu_process_groups(["cp"])
        own_rows = None if mask is None else zigzag.cut(mask, 2, rank, 2)
        ours = attended(attention(layout, window, pg_collection=groups), own_rows, rank, 2)
        whole = [zigzag.cut(x, 0, rank, 2) for x in expected(mask, window)]
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)


@MASKS
@pytest.mark.parametrize("window", [None, 4])
def test_attention_over_two_processes_is_that_of_one(
    two_processes: TwoProcesses, mask: Tensor | None, window: int | None
) -> None:
    two_processes(check_context_parallel, mask, window)


@pytest.mark.parametrize("normalization", ["RMSNorm", "LayerNorm"])
def test_every_weight_of_a_norm_is_marked_where_the_sequence_is_split(normalization: str) -> None:
    for layout in (LayoutSettings(), LayoutSettings(tensor_model_parallel_size=2, sequence_parallel=True)):
        config = transformer_config(MODEL, layout, "float32")
        config.normalization = normalization
        marks = {name: weight.sequence_parallel for name, weight in Norm(config, 32).named_parameters()}  # type: ignore[attr-defined]
        names = ["weight"] if normalization == "RMSNorm" else ["weight", "bias"]
        assert marks == dict.fromkeys(names, layout.sequence_parallel)
