import math
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.statistics import ratio

values = st.floats(min_value=0, max_value=1e6)
pairs = st.lists(st.tuples(values, st.integers(min_value=1, max_value=10**6)), min_size=2, max_size=50)


def test_ratio_by_hand() -> None:
    estimate = ratio([2, 4], [1, 1])
    assert (estimate.value, estimate.stderr) == (3, 1)


@given(st.lists(values, min_size=2, max_size=50))
def test_with_equal_denominators_it_is_the_error_of_the_mean(numerators: list[float]) -> None:
    estimate = ratio(numerators, [1] * len(numerators))
    assert math.isclose(estimate.value, statistics.fmean(numerators), rel_tol=1e-9)
    expected = statistics.stdev(numerators) / math.sqrt(len(numerators))
    assert math.isclose(estimate.stderr, expected, rel_tol=1e-6, abs_tol=1e-6)


@given(pairs, st.randoms())
def test_order_of_documents_changes_no_bit(rows: list[tuple[float, int]], chance: random.Random) -> None:
    shuffled = list(rows)
    chance.shuffle(shuffled)
    assert ratio(*zip(*rows, strict=True)) == ratio(*zip(*shuffled, strict=True))


@given(pairs)
def test_a_constant_ratio_has_no_error(rows: list[tuple[float, int]]) -> None:
    size = [denominator for _, denominator in rows]
    assert ratio([2.0 * each for each in size], size).stderr == 0


def test_delta_method_agrees_with_the_bootstrap() -> None:
    chance = np.random.default_rng(0)
    size = chance.lognormal(8, 1, 300)
    nats = size * chance.normal(1.5, 0.3, 300)
    draws = chance.integers(0, 300, (4000, 300))
    bootstrap = (nats[draws].sum(axis=1) / size[draws].sum(axis=1)).std()
    assert ratio(nats.tolist(), size.tolist()).stderr == pytest.approx(bootstrap, rel=0.1)


@pytest.mark.parametrize(("numerators", "denominators"), [([1], [1]), ([], []), ([1, 1], [0, 0])])
def test_a_ratio_without_an_error_is_refused(numerators: list[float], denominators: list[float]) -> None:
    with pytest.raises(ValueError, match="two documents"):
        ratio(numerators, denominators)
