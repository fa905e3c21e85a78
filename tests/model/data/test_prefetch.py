import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.data.prefetch import Prefetcher

ROOT = Path(__file__).parents[3]


def double(number: int) -> int:
    if number == 13:
        raise ValueError("thirteen")
    return 2 * number


def following(number: int) -> int | None:
    return number + 1 if number < 20 else None


@pytest.fixture(params=[0, 1, 3])
def prefetcher(request: pytest.FixtureRequest) -> Iterator[Prefetcher[int, int]]:
    made = Prefetcher(double, following, request.param)
    yield made
    made.close()


def test_results_are_those_of_the_function_in_any_order_of_requests(prefetcher: Prefetcher[int, int]) -> None:
    requests = [1, 2, 3, 4, 2, 3, 9, 20, 0, 1, 17, 18, 19, 20]
    assert [prefetcher.take(number) for number in requests] == [2 * number for number in requests]


def test_what_loading_raises_is_raised_where_the_result_is_taken(prefetcher: Prefetcher[int, int]) -> None:
    assert prefetcher.take(12) == 24
    with pytest.raises(ValueError, match="thirteen"):
        prefetcher.take(13)
    assert prefetcher.take(14) == 28


def test_what_follows_is_loaded_before_it_is_asked_for() -> None:
    loaded, third = [], threading.Event()

    def load(number: int) -> int:
        loaded.append(number)
        if number == 3:
            third.set()
        return number

    prefetcher = Prefetcher(load, following, workers=1)
    prefetcher.take(1)
    assert third.wait(timeout=60)
    prefetcher.close()
    assert loaded == [1, 2, 3]


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    prefetcher = Prefetcher(double, following, workers=2)
    prefetcher.take(1)
    assert threading.active_count() > before
    prefetcher.close()
    assert threading.active_count() == before


NEVER_CLOSED = """
from model.data.prefetch import Prefetcher
prefetcher = Prefetcher(lambda number: number, lambda number: number + 1, workers=2)
prefetcher.take(1)
raise SystemExit(7)
"""


def test_a_process_that_fails_ends_with_results_still_ahead() -> None:
    assert subprocess.run([sys.executable, "-c", NEVER_CLOSED], cwd=ROOT, timeout=60).returncode == 7
