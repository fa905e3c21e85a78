"""A choice of experts is carried over and judged, whatever the family's router."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from model.convert import unsplit
from model.convert.parity import compare
from model.convert.routing import shortfall
from model.data.batches import Batch
from tests.model.families import table
from tests.model.families.test_parity import LABELS, LOGITS, POSITIONS, TOKENS, megatron_model

MIXTURES = [row for row in table.ROWS if table.settings(row).experts]
BATCH = Batch(TOKENS, LABELS, POSITIONS, None)


@pytest.fixture
def one_process() -> Iterator[None]:
    with unsplit.process(num_threads=1, seed=1):
        yield


def routed(row: str) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yield a router of `transformers` of a row, and for some tokens its logits `[1, experts]` and its choice."""
    model = table.settings(row)
    network: Any = table.transformers_model(model)
    router = network.base_model.layers[-1].mlp.gate
    hidden = torch.randn(1, 50, model.hidden_size, generator=torch.Generator().manual_seed(0))
    logits, _weights, indices = router(hidden)
    for token, chosen in zip(logits.detach(), indices, strict=True):
        yield router, token[None], torch.zeros(1, len(token), dtype=torch.bool).index_fill(1, chosen, True)


@pytest.mark.parametrize("row", MIXTURES)
def test_a_routers_own_choice_falls_short_of_nothing_and_any_other_does(row: str) -> None:
    for router, logits, choice in routed(row):
        assert shortfall(router, logits, choice) <= 0
        for gone in choice[0].nonzero():
            for come in (~choice[0]).nonzero():
                other = choice.index_fill(1, gone, False).index_fill(1, come, True)
                assert shortfall(router, logits, other) > 0


@pytest.mark.parametrize("row", MIXTURES)
def test_level_experts_are_no_difference_of_two_models(row: str, one_process: None) -> None:
    model = table.settings(row)
    network: Any = table.transformers_model(model)
    gate = network.base_model.layers[-1].mlp.gate
    with torch.no_grad():
        gate.weight[1:] = gate.weight[1]  # not the first, so that the visited experts differ in weight
        for bias in gate.buffers():
            bias.zero_()
    decoder = megatron_model(model, table.on_disk(network, network.state_dict()))
    with torch.no_grad():
        gate.weight[-2:] *= 1 + 1e-6
        alone = network(TOKENS).logits
        ours = decoder(TOKENS, POSITIONS, None)[..., : table.VOCAB_SIZE]
    assert (alone - ours).abs().max() > 1e-2
    assert compare(decoder, network, [BATCH]).max_abs_logit_difference <= LOGITS


@pytest.mark.parametrize("row", MIXTURES)
def test_another_choice_of_experts_is_a_difference(row: str, one_process: None) -> None:
    model = table.settings(row)
    network: Any = table.transformers_model(model)
    decoder = megatron_model(model, table.on_disk(network, network.state_dict()))
    with torch.no_grad():
        weight = network.base_model.layers[-1].mlp.gate.weight
        weight.copy_(weight.flip(0))
    assert compare(decoder, network, [BATCH]).max_abs_logit_difference > 1e-2
