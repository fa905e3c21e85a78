"""Patterns of a source's files, as in .gitignore: `*.py` anywhere, `/src/*.c` from the source's root."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from pathspec import PathSpec


def fits(patterns: Iterable[str], name: str) -> bool:
    """Return whether one of the patterns has the file of this name."""
    return _spec(tuple(patterns)).match_file(name)


@lru_cache(maxsize=256)
def _spec(patterns: tuple[str, ...]) -> "PathSpec[Any]":
    return PathSpec.from_lines("gitignore", patterns)
