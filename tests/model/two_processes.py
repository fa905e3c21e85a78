"""Processes for tests of parallelism."""

import gc
import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any


class Processes:
    """Processes that outlive a test, as importing torch and Megatron-Core takes longer than most of them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: Any = None

    def __call__(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in all, each with the environment of its rank; raise what one of them raises."""
        self._pool = self._pool or multiprocessing.get_context("spawn").Pool(self._count)
        environment = {"WORLD_SIZE": str(self._count), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
        ranks = range(self._count)
        calls = [self._pool.apply_async(_as_rank, (rank, environment, function, arguments)) for rank in ranks]
        try:
            while not all(call.ready() for call in calls):
                for call in calls:
                    if call.ready():
                        call.get()
                time.sleep(0.01)
            for call in calls:
                call.get()
        except BaseException:
            self.close()  # the other ranks may wait for the one that failed
            raise

    def close(self) -> None:
        if self._pool:
            self._pool.terminate()
            self._pool.join()
            self._pool = None


class TwoProcesses(Processes):
    """Two of them, which most tests need."""

    def __init__(self) -> None:
        super().__init__(2)


def _as_rank(rank: int, environment: dict[str, str], function: Callable[..., None], arguments: Any) -> None:
    os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
    try:
        function(*arguments)
    finally:
        gc.collect()  # what is left of a model holds groups whose peers are gone, and their threads would spin


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])
