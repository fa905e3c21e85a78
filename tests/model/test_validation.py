import math

import pytest
import torch

from model.validation import Score

TOKEN_BYTES = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
"""Id 0 is special; ids 1 and 2 stand for one and three bytes."""


def test_bits_per_byte_are_the_nats_of_text_over_its_bytes_and_ln_2() -> None:
    score = Score(TOKEN_BYTES)
    score.add(torch.tensor([[1, 2, 0]]), torch.tensor([[math.log(2), 3 * math.log(2), 100.0]]))
    assert score.values()["bits_per_byte"] == pytest.approx(4 / 4)
    assert score.values()["loss"] == pytest.approx((4 * math.log(2) + 100) / 3)


def test_merged_scores_are_the_score_of_all_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (4, 8), generator=generator)
    losses = torch.rand(4, 8, generator=generator)
    whole, first, second = Score(TOKEN_BYTES), Score(TOKEN_BYTES), Score(TOKEN_BYTES)
    whole.add(labels, losses)
    first.add(labels[:1], losses[:1])
    second.add(labels[1:], losses[1:])
    first.merge(second)
    assert first.values() == pytest.approx(whole.values())
