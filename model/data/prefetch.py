"""Results of a pure function, computed by threads before they are asked for. Imports no torch."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Prefetcher(Generic[Request, Result]):
    """Loads what follows a request while the caller uses its result.

    Args:
        load: A pure function of the request; threads call it.
        following: The request to expect after another, or None after the last. A wrong guess costs time alone.
        workers: Threads; 0 loads in the caller, when asked.
    """

    def __init__(
        self, load: Callable[[Request], Result], following: Callable[[Request], Request | None], workers: int
    ) -> None:
        self._load = load
        self._following = following
        self._ahead = 2 * workers
        self._queue: deque[tuple[Request, Future[Result]]] = deque()
        self._threads = ThreadPoolExecutor(workers, "data") if workers else None

    def take(self, request: Request) -> Result:
        """Return the result of a request; what its loading raised is raised here."""
        if self._threads is None:
            return self._load(request)
        if not self._queue or self._queue[0][0] != request:
            self._drop()
        upcoming: Request | None = self._following(self._queue[-1][0]) if self._queue else request
        while upcoming is not None and len(self._queue) <= self._ahead:
            self._queue.append((upcoming, self._threads.submit(self._load, upcoming)))
            upcoming = self._following(upcoming)
        return self._queue.popleft()[1].result()

    def close(self) -> None:
        """End the threads; results not taken are dropped."""
        self._drop()
        if self._threads is not None:
            self._threads.shutdown()

    def _drop(self) -> None:
        for _, future in self._queue:
            future.cancel()
        self._queue.clear()
