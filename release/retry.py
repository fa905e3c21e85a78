"""Asking a server again when its answer was unclear."""

import time
from collections.abc import Callable
from typing import TypeVar

from stages.errors import UserError

PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds between attempts
T = TypeVar("T")


class UnclearError(Exception):
    """No answer, or one that leaves open whether the request took effect."""

    def __init__(self, message: str, wait: float = 0.0):
        super().__init__(message)
        self.wait = wait
        """Seconds that the server asks to wait."""


def until_clear(attempt: Callable[[], T]) -> T:
    """Return the first clear answer of `attempt`, which must be safe to repeat.

    Raises:
        UserError: No attempt brought one.
    """
    for pause in PAUSES:
        try:
            return attempt()
        except UnclearError as error:
            time.sleep(max(pause, error.wait))
    try:
        return attempt()
    except UnclearError as error:
        raise UserError(
            f"Gave up after {len(PAUSES) + 1} attempts: {error}. Repeat later: it goes on from here."
        ) from error
