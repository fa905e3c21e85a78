"""Rotary positions are those of transformers, in every layout."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPTNeoXConfig, LlamaConfig, Olmo3Config
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.olmo3.modeling_olmo3 import Olmo3RotaryEmbedding
from transformers.utils import logging

from model import parallel
from model.families.rope import Linear, Llama3, RopeScaling, Yarn, rope_parameters
from model.layout import LayoutSettings
from model.network import zigzag
from model.network.rotary import Rotary, frequencies
from tests.model.two_processes import TwoProcesses

WIDTH, LENGTH, BASE = 16, 24, 500000.0
LINEAR = Linear(rope_type="linear", factor=4.0)
LLAMA3 = Llama3(
    rope_type="llama3",
    factor=32.0,
    low_freq_factor=1.5,
    high_freq_factor=6.0,
    original_max_position_embeddings=64,
)
YARN = Yarn(rope_type="yarn", factor=4.0, original_max_position_embeddings=64)
YARN_WITH_ALL = Yarn(
    rope_type="yarn",
    factor=4.0,
    original_max_position_embeddings=64,
    beta_fast=24.0,
    beta_slow=2.0,
    mscale=0.7,
    mscale_all_dim=1.0,
    truncate=False,
)


def theirs(rotary: Any, **options: Any) -> Tensor:
    """Return cosines and sines of a rotary module of transformers, as `Rotary` lays them out."""
    positions = torch.arange(LENGTH)[None]
    return torch.cat(rotary(torch.zeros(1), positions, **options), dim=-1).view(LENGTH, 1, 1, -1)


@pytest.fixture(autouse=True)
def alone() -> Any:
    with parallel.processes(LayoutSettings(), "cpu", num_threads=1, seed=0, alone=True):
        yield


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3, YARN, YARN_WITH_ALL])
def test_turns_are_those_of_transformers(scaling: RopeScaling | None) -> None:
    parameters: Any = rope_parameters(BASE, scaling)
    config = LlamaConfig(head_dim=WIDTH, max_position_embeddings=256, rope_parameters=parameters)
    assert torch.equal(Rotary(WIDTH, BASE, (scaling,))(LENGTH), theirs(LlamaRotaryEmbedding(config)))


@pytest.mark.parametrize("scaling", [None, YARN])
def test_a_part_of_a_head_is_turned_as_in_transformers(scaling: RopeScaling | None) -> None:
    parameters: Any = {**rope_parameters(BASE, scaling), "partial_rotary_factor": 0.25}
    config = GPTNeoXConfig(
        hidden_size=4 * WIDTH * 4, num_attention_heads=4, max_position_embeddings=256, rope_parameters=parameters
    )
    assert torch.equal(Rotary(WIDTH, BASE, (scaling,))(LENGTH), theirs(GPTNeoXRotaryEmbedding(config)))


def test_layers_with_a_window_have_a_scaling_of_their_own() -> None:
    parameters: Any = {
        "full_attention": rope_parameters(BASE, YARN),
        "sliding_attention": rope_parameters(BASE, None),
    }
    config = Olmo3Config(
        hidden_size=4 * WIDTH, num_attention_heads=4, max_position_embeddings=256, rope_parameters=parameters
    )
    rotary = Olmo3RotaryEmbedding(config)
    full, windowed = Rotary(WIDTH, BASE, (YARN, None))(LENGTH).chunk(2, dim=-1)
    assert torch.equal(full, theirs(rotary, layer_type="full_attention"))
    assert torch.equal(windowed, theirs(rotary, layer_type="sliding_attention"))


def test_no_context_length_is_complained_of(caplog: pytest.LogCaptureFixture) -> None:
    logging.enable_propagation()
    for scaling in (LINEAR, LLAMA3, YARN):
        frequencies(WIDTH, BASE, scaling)
    logging.disable_propagation()
    assert caplog.messages == []


def test_another_base_keeps_the_scaling() -> None:
    other = Rotary(WIDTH, 10000.0, (LLAMA3, None)).with_base(BASE)
    assert torch.equal(other(LENGTH), Rotary(WIDTH, BASE, (LLAMA3, None))(LENGTH))


def check_parts() -> None:
    whole = theirs(LlamaRotaryEmbedding(LlamaConfig(head_dim=WIDTH, rope_parameters=rope_parameters(BASE, None))))
    with parallel.processes(LayoutSettings(context_parallel_size=2), "cpu", num_threads=1, seed=0):
        own = Rotary(WIDTH, BASE)(LENGTH)
        assert torch.equal(own, zigzag.cut(whole, 0, parallel.context_parallel_rank(), 2))


def test_a_process_turns_its_own_part_of_a_sequence(two_processes: TwoProcesses) -> None:
    two_processes(check_parts)
