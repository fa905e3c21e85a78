import math
from pathlib import Path

import pytest

from evals import unigram
from tests.evals import world

TOKENS = {"code": [[1, 2, 2], [3]], "prose": [[2]]}  # and a 0 after each document: counts 3, 1, 3, 1, 0


def test_probabilities_are_counts_of_all_domains_plus_one(tmp_path: Path) -> None:
    world.write_token_shards(tmp_path, 5, TOKENS)
    model = unigram.fit(tmp_path)
    for token, count in enumerate([3, 1, 3, 1, 0]):
        assert model.nats([token]) == pytest.approx(-math.log((count + 1) / (8 + 5)))


def test_probabilities_sum_to_one(tmp_path: Path) -> None:
    world.write_token_shards(tmp_path, 5, TOKENS)
    model = unigram.fit(tmp_path)
    assert math.fsum(math.exp(-model.nats([token])) for token in range(5)) == pytest.approx(1)


def test_nats_add_up(tmp_path: Path) -> None:
    world.write_token_shards(tmp_path, 5, TOKENS)
    model = unigram.fit(tmp_path)
    assert model.nats([1, 2, 4]) == pytest.approx(model.nats([1]) + model.nats([2]) + model.nats([4]))
    assert model.nats([]) == 0


def test_blocks_change_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.write_token_shards(tmp_path, 5, TOKENS)
    whole = unigram.fit(tmp_path).nats([0, 1, 2, 3, 4])
    monkeypatch.setattr(unigram, "BLOCK_TOKENS", 2)
    assert unigram.fit(tmp_path).nats([0, 1, 2, 3, 4]) == whole
