"""Progress bars of long reads: on a terminal only, and only from the process that was started there."""

from collections.abc import Iterable
from multiprocessing import parent_process
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def is_watched() -> bool:
    """Return whether bars may show; those of several workers would write over each other."""
    return parent_process() is None


def bar(counted: Iterable[T] = (), **settings: Any) -> "tqdm[T]":
    """Return a bar with the settings of `tqdm`, gone when it is done."""
    return tqdm(counted, **settings, leave=False, unit_scale=True, disable=None if is_watched() else True)
