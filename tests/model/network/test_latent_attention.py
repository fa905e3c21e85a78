"""Latent attention, whole and split over processes; the families' tests hold it to `transformers`."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model import parallel
from model.layout import LayoutSettings
from model.network.latent_attention import LatentAttention, Latents
from tests.model.network import splitting
from tests.model.two_processes import TwoProcesses

HEADS, HIDDEN, LENGTH, BATCH = 4, 32, 6, 2
LATENTS = Latents(query_rank=12, key_value_rank=8, content=6, rotary=4, value=10, scale=0.3)
WITHOUT = Latents(query_rank=None, key_value_rank=8, content=6, rotary=4, value=10, scale=0.3)


def whole_weights(latents: Latents) -> dict[str, Tensor]:
    query = latents.query_rank
    width = HEADS * (latents.content + latents.rotary)
    of_query: dict[str, tuple[int, ...]] = {"linear_q_proj.weight": (width, HIDDEN)}
    if query:
        up = {"q_layernorm.weight": (query,), "linear_q_up_proj.weight": (width, query)}
        of_query = {"linear_q_down_proj.weight": (query, HIDDEN), **up}
    drawn = splitting.leaves(
        **of_query,
        **{
            "linear_kv_down_proj.weight": (latents.key_value_rank + latents.rotary, HIDDEN),
            "kv_layernorm.weight": (latents.key_value_rank,),
            "linear_kv_up_proj.weight": (HEADS * (latents.content + latents.value), latents.key_value_rank),
            "linear_proj.weight": (HIDDEN, HEADS * latents.value),
        },
    )
    return {name: (0.3 * weight.detach()).requires_grad_() for name, weight in drawn.items()}


def turns() -> Tensor:
    """Return the angles of the pairs `[s, rotary / 2]`."""
    return torch.arange(LENGTH)[:, None] / 10.0 ** torch.arange(2)


def turned(x: Tensor) -> Tensor:
    """Turn neighbours of `[s, ..., rotary]` as complex numbers."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    angles = turns().view(LENGTH, *[1] * (x.dim() - 2), -1)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def by_definition(latents: Latents, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Return equations 9 to 19 of the paper for `[s, b, h]`, with the two parts of a head one after the other."""

    def down(side: str) -> Tensor:
        return x @ weights[f"linear_{side}_down_proj.weight"].T

    def normed(side: str, latent: Tensor) -> Tensor:
        weight = weights[f"{side}_layernorm.weight"]
        return functional.rms_norm(latent, weight.shape, weight, eps=1e-6)

    if latents.query_rank:
        query = normed("q", down("q")) @ weights["linear_q_up_proj.weight"].T
    else:
        query = x @ weights["linear_q_proj.weight"].T
    query = query.unflatten(-1, (HEADS, -1))
    latent, position = down("kv").split([latents.key_value_rank, latents.rotary], dim=-1)
    up = (normed("kv", latent) @ weights["linear_kv_up_proj.weight"].T).unflatten(-1, (HEADS, -1))
    content, value = up.split([latents.content, latents.value], dim=-1)
    scores = torch.einsum("sbhd,tbhd->bhst", query[..., : latents.content], content)
    scores = scores + torch.einsum("sbhd,tbd->bhst", turned(query[..., latents.content :]), turned(position))
    later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
    attended = (latents.scale * scores).masked_fill(later, -torch.inf).softmax(-1)
    out = torch.einsum("bhst,tbhd->sbhd", attended, value).flatten(2)
    return out @ weights["linear_proj.weight"].T


def check(layout: LayoutSettings, latents: Latents) -> None:
    """Require result and all gradients of the definition."""
    whole, x = whole_weights(latents), splitting.draw(LENGTH, BATCH, HIDDEN).requires_grad_()
    upstream = splitting.draw(LENGTH, BATCH, HIDDEN, seed=9)
    expected = by_definition(latents, whole, x)
    expected.backward(upstream)
    assert x.grad is not None
    with parallel.processes(layout, "cpu", num_threads=1, seed=0):
        config = splitting.config(layout, normalization="RMSNorm", attention_dropout=0.0)
        attention = LatentAttention(config, latents, layer_number=1)
        splitting.fill(attention, whole)
        own = (lambda tensor: splitting.own_part(tensor, 0)) if layout.sequence_parallel else (lambda tensor: tensor)
        part = own(x.detach()).requires_grad_()
        table = torch.cat([f(turns()).repeat(1, 2) for f in (torch.cos, torch.sin)], dim=-1)[:, None, None]
        out, bias = attention(part, None, table)
        assert bias is None
        torch.testing.assert_close(out, own(expected), rtol=1e-5, atol=1e-5)
        out.backward(own(upstream))
        assert part.grad is not None
        torch.testing.assert_close(part.grad, own(x.grad), rtol=1e-5, atol=1e-5)
        splitting.check_gradients(attention, whole)


QUERIES = pytest.mark.parametrize("latents", [LATENTS, WITHOUT], ids=["latent queries", "whole queries"])


@QUERIES
def test_it_is_the_papers(latents: Latents) -> None:
    check(LayoutSettings(), latents)


@QUERIES
@pytest.mark.parametrize("layout", splitting.LAYOUTS, ids=["tensor", "tensor and sequence"])
def test_two_processes_have_the_gradients_of_one(
    layout: LayoutSettings, latents: Latents, two_processes: TwoProcesses
) -> None:
    two_processes(check, layout, latents)


def test_all_its_weights_are_drawn_as_the_configuration_says() -> None:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0):
        config = splitting.config(LayoutSettings(), normalization="RMSNorm", init_method_std=0.5)
        attention = LatentAttention(config, LATENTS, layer_number=1)
        for name, weight in attention.named_parameters():
            if weight.dim() == 2 and name != "linear_proj.weight":  # its spread depends on the number of layers
                assert weight.std().item() == pytest.approx(0.5, rel=0.15), name
