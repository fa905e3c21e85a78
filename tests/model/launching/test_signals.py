import os
import signal
import time
from collections.abc import Iterator

import pytest

from model.launching.signals import STARTED, TIME_LIMIT, StopRequest


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request_however_often_it_comes(number: signal.Signals) -> None:
    stop = StopRequest(None)
    assert stop.requested() is None
    for _ in range(3):
        os.kill(os.getpid(), number)
        assert stop.requested() == number.name


def test_the_time_limit_counts_from_the_start_of_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STARTED, str(time.monotonic() - 59.5))
    assert StopRequest(None).requested() is None
    stop = StopRequest(1.0)
    assert stop.requested() is None
    time.sleep(0.6)
    assert stop.requested() == TIME_LIMIT
