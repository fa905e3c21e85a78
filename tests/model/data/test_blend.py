from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.blend import Blend
from model.data.index_cache import IndexCache

MEMORY = IndexCache(Path("unused"))
PARTS = st.lists(st.integers(1, 1000), min_size=1, max_size=8)


def blend_of(parts: list[int], samples: int) -> Blend:
    return Blend({f"d{index}": part / sum(parts) for index, part in enumerate(parts)}, samples, MEMORY)


@settings(deadline=None)
@given(PARTS, st.integers(1, 300))
def test_domains_keep_to_their_shares(parts: list[int], samples: int) -> None:
    blend = blend_of(parts, samples)
    domains, numbers = blend.at(0, samples)
    # A domain is picked when it is behind, so at most one sample ahead; how far the most hungry of k falls behind is
    # the bound of the cup game (Bender et al. 2019, section 2).
    behind = sum(1 / kind for kind in range(1, len(parts) + 1))
    for domain, part in enumerate(parts):
        taken = np.cumsum(domains == domain)
        share = part / sum(parts) * np.arange(1, samples + 1)
        assert (taken - share <= 1 + 1e-9).all()
        assert (share - taken <= behind + 1e-9).all()
        assert numbers[domains == domain].tolist() == list(range(taken[-1]))
        assert blend.counts[domain] == taken[-1]


@settings(deadline=None)
@given(PARTS, st.integers(1, 300), st.integers(1, 300))
def test_a_sample_does_not_depend_on_the_planned_length(parts: list[int], planned: int, other: int) -> None:
    short, long = blend_of(parts, planned), blend_of(parts, planned + other)
    for column, same in zip(short.at(0, planned), long.at(0, planned), strict=True):
        assert np.array_equal(column, same)
    for column, same in zip(short.at(planned, other), long.at(planned, other), strict=True):
        assert np.array_equal(column, same)
    assert sum(short.counts) == planned


def test_one_domain_needs_no_index_however_long_it_is() -> None:
    blend = blend_of([1], 2**40)
    domains, numbers = blend.at(2**40 + 5, 3)
    assert domains.tolist() == [0, 0, 0]
    assert numbers.tolist() == [2**40 + 5, 2**40 + 6, 2**40 + 7]
    assert blend.counts == [2**40]


def test_domains_are_sorted_whatever_the_order_of_the_parameters() -> None:
    one, other = Blend({"a": 0.3, "b": 0.7}, 50, MEMORY), Blend({"b": 0.7, "a": 0.3}, 50, MEMORY)
    assert one.domains == other.domains == ["a", "b"]
    assert np.array_equal(one.at(0, 50)[0], other.at(0, 50)[0])
