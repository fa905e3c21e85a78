"""Two processes for tests of parallelism."""

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any


class TwoProcesses:
    """Two processes that outlive a test, as importing torch and Megatron-Core takes longer than most of them."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call a function in both, with the environment of ranks 0 and 1; raise what one of them raises."""
        self._pool = self._pool or multiprocessing.get_context("spawn").Pool(2)
        port = str(free_port())
        calls = [self._pool.apply_async(_as_rank, (rank, port, function, arguments)) for rank in range(2)]
        try:
            while not all(call.ready() for call in calls):
                for call in calls:
                    if call.ready():
                        call.get()
                time.sleep(0.01)
            for call in calls:
                call.get()
        except BaseException:
            self.close()  # the other rank may wait for the one that failed
            raise

    def close(self) -> None:
        if self._pool:
            self._pool.terminate()
            self._pool.join()
            self._pool = None


def _as_rank(rank: int, port: str, function: Callable[..., None], arguments: Any) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=port)
    function(*arguments)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])
