from collections.abc import Iterator

import pytest

from tests.evals import world


@pytest.fixture(scope="module", autouse=True)
def offline_only_here() -> Iterator[None]:
    with world.offline_only_here():
        yield
