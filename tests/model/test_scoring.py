"""How batches of any shapes are made even for a pipeline, and the scores of one process."""

import pytest
import torch

from model.data.batches import Batch
from model.scoring import evened, rounds, unpadded
from tests.model import layouts


def test_rounds_hold_every_batch_once_in_order() -> None:
    batches = [layouts.batch(first, 1) for first in range(5)]
    assert [len(group) for group in rounds(batches, 2)] == [2, 2, 1]
    assert [batch for group in rounds(batches, 2) for batch in group] == batches


def test_uneven_batches_become_even_and_their_scores_lose_what_was_added() -> None:
    group = [layouts.batch(0, 3, 10), layouts.batch(9, 1, 7)]
    even = evened(group, 4, multiple=4)
    assert [batch.tokens.shape for batch in even] == [(3, 12)] * 4
    for batch, padded in zip(group, even, strict=False):
        b, s = batch.tokens.shape
        for own, made in zip(batch[:3], padded[:3], strict=True):
            assert torch.equal(made[:b, :s], own)
    scores = torch.stack([torch.stack((batch.labels.float(), batch.labels % 2)) for batch in even])
    found = list(unpadded(group, scores))
    assert len(found) == len(group)
    for batch, (labels, losses, is_greedy) in zip(group, found, strict=True):
        assert torch.equal(labels, batch.labels)
        assert torch.equal(losses, batch.labels.float())
        assert torch.equal(is_greedy, batch.labels % 2 == 1)


def test_a_padded_mask_hides_padding_from_real_tokens_and_lets_every_row_attend() -> None:
    plain = layouts.batch(0, 2, 6)
    mask = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, 6, 6)
    (padded,) = evened([Batch(plain.tokens, plain.labels, plain.positions, mask)], 1, multiple=8)
    found = padded.attention_mask
    assert found is not None
    assert torch.equal(found[:, :, :6, :6], mask)
    assert not found[:, :, :6, 6:].any()
    assert found.any(dim=-1).all()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_scores_are_those_of_the_logits_without_dropout(dropout: float) -> None:
    job = layouts.job(dropout=dropout)
    with layouts.training(job) as trainer:
        batches = [layouts.batch(0, 2), layouts.batch(5, 3, 9)]
        found = list(trainer.token_scores(batches))
        assert all(chunk.training for chunk in trainer.ddp)
        for batch, (labels, losses, is_greedy) in zip(batches, found, strict=True):
            with torch.no_grad():
                logits = trainer.modules[0].eval()(batch.tokens, batch.positions, None)[..., : job.shards.vocab_size]
            expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
            assert torch.equal(is_greedy, logits.argmax(-1) == labels)
