"""Progress bars of long reads: on a terminal only, and only from the process that was started there."""

from multiprocessing import parent_process
from typing import Any

from tqdm import tqdm


def is_watched() -> bool:
    """Return whether bars may show; those of several workers would write over each other."""
    return parent_process() is None


def bar(*arguments: Any, **settings: Any) -> "tqdm[Any]":
    """Return a bar with the arguments of `tqdm`, gone when it is done."""
    return tqdm(*arguments, **settings, leave=False, unit_scale=True, disable=None if is_watched() else True)
