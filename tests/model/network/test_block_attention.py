"""Attention by blocks against torch's in float64."""

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.network import block_attention
from model.network.block_attention import attend

WIDTH = 6


def draw(s: int, total: int, b: int, groups: int, share: int, width: int = WIDTH) -> tuple[list[Tensor], Tensor]:
    """Return query, key and value in one memory, as a fused projection leaves them, and the output's gradient.

    The value is `width` wide.
    """
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(total, b, groups, share + 2, WIDTH, generator=generator, dtype=torch.float64)
    query, key, value = fused.split((share, 1, 1), dim=3)
    inputs = [query[-s:].flatten(2, 3), key.squeeze(3), value.squeeze(3)[..., :width]]
    upstream = torch.randn(s, b, groups * share, width, generator=generator, dtype=torch.float64)
    return [x.detach().requires_grad_() for x in inputs], upstream


def with_gradients(attend: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor) -> tuple[Tensor, ...]:
    out = attend(*inputs)
    return (out, *torch.autograd.grad(out, inputs, upstream))


def by_definition(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.4, enable_gqa=True)
    return out.permute(2, 0, 1, 3)


def causal(s: int, total: int, window: int | None = None) -> Tensor:
    last = torch.arange(total - s, total)[:, None]
    key = torch.arange(total)
    return (key <= last) & (key > last - (window or total))


@settings(deadline=None, max_examples=30)
@given(
    s=st.integers(1, 12),
    before=st.integers(0, 6),
    b=st.integers(1, 2),
    groups=st.integers(1, 3),
    share=st.integers(1, 3),
    block=st.integers(1, 14),
    width=st.sampled_from((4, WIDTH)),
    window=st.none() | st.integers(1, 20),
    documents=st.booleans(),
)
def test_it_is_causal_attention_for_any_shape_and_block(
    s: int,
    before: int,
    b: int,
    groups: int,
    share: int,
    block: int,
    width: int,
    window: int | None,
    documents: bool,
) -> None:
    total = before + s
    inputs, upstream = draw(s, total, b, groups, share, width)
    document = torch.arange(total) // 4
    together = document[-s:, None] == document
    given_mask = (causal(s, total) & together).expand(b, 1, -1, -1) if documents else None
    mask = causal(s, total, window) & together if documents else causal(s, total, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_attention, "_QUERIES", block)
        ours = with_gradients(functools.partial(attend, mask=given_mask, scale=0.4, window=window), inputs, upstream)
    theirs = with_gradients(functools.partial(by_definition, mask=mask), inputs, upstream)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("total", "window", "expected"), [(1024, None, True), (1025, None, False), (4096, 128, True)])
def test_a_window_makes_longer_sequences_worthwhile(total: int, window: int | None, expected: bool) -> None:
    assert block_attention.is_worthwhile(total, window) == expected


@given(length=st.integers(1, 40), before=st.integers(0, 9), window=st.integers(1, 50), size=st.integers(1, 50))
def test_blocks_leave_out_what_no_query_sees(length: int, before: int, window: int, size: int) -> None:
    total = before + length
    seen = causal(length, total, window)
    found = list(block_attention.blocks(length, total, window, size))
    assert [row for block, _ in found for row in range(length)[block]] == list(range(length))
    for block, keys in found:
        assert torch.equal(seen[block].any(0).nonzero().flatten(), torch.arange(total)[keys])


def test_bf16_is_as_near_to_exact_as_its_own_rounding() -> None:
    (query, key, value), upstream = draw(200, 200, 2, 2, 2)
    half = [x.detach().bfloat16().requires_grad_() for x in (query, key, value)]
    exact_inputs = [x.detach().double().requires_grad_() for x in half]
    ours = with_gradients(functools.partial(attend, mask=None, scale=0.4), half, upstream.bfloat16())
    exact = with_gradients(functools.partial(by_definition, mask=causal(200, 200)), exact_inputs, upstream)
    for mine, reference in zip(ours, exact, strict=True):
        assert (mine.double() - reference).norm() <= 1e-2 * reference.norm()
