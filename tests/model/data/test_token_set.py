import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import token_set
from model.data.token_set import TokenSet

BATCHES = st.lists(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=6), max_size=8)
Batches = list[list[tuple[int, int]]]


def filled(batches: Batches) -> TokenSet:
    tokens = TokenSet()
    for batch in batches:
        begins, lengths = np.array(batch).T
        tokens.add(begins, begins + lengths)
    return tokens


def expected(batches: Batches) -> set[int]:
    return {token for batch in batches for begin, length in batch for token in range(begin, begin + length)}


@settings(deadline=None)
@given(BATCHES, BATCHES)
def test_a_set_holds_each_token_once(one: Batches, other: Batches) -> None:
    both = filled(one)
    assert len(both) == len(expected(one))
    both.update(filled(other))
    assert len(both) == len(expected(one) | expected(other))


def test_intervals_are_joined_while_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_set, "_WAITING", 10)
    tokens = TokenSet()
    for begin in np.random.default_rng(0).permutation(1000):
        tokens.add(np.array([begin]), np.array([begin + 1]))
        assert tokens._count <= max(10, len(tokens._begins))
    assert len(tokens) == 1000
    assert len(tokens._begins) == 1
