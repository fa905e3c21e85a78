import pytest
import torch

from model.network import zigzag


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_parts_of_all_ranks_join_to_the_sequence(size: int) -> None:
    sequence = torch.arange(2 * 12).view(2, 12)
    parts = [zigzag.cut(sequence, 1, rank, size) for rank in range(size)]
    assert all(part.shape == (2, 12 // size) for part in parts)
    assert torch.equal(zigzag.join(parts, 1), sequence)


def test_every_rank_has_as_many_pairs_of_query_and_earlier_key() -> None:
    pairs = torch.arange(1, 25)  # of a token with itself and those before it
    work = {zigzag.cut(pairs, 0, rank, 4).sum().item() for rank in range(4)}
    assert len(work) == 1
