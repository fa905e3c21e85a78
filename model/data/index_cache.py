"""Index arrays on disk, shared by the processes of a run and mapped, not read. Imports no torch.

An entry is named by what its arrays are made from, so that neither a path nor a clock can bring up another's.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]

_BLOCK = 1 << 20
_DIGEST_BYTES = hashlib.sha256().digest_size


class Spec(NamedTuple):
    """What an array of an entry is like."""

    length: int
    """Number of elements; arrays have one dimension."""
    dtype: DTypeLike
    """Of an element."""


class IndexCache:
    """Arrays by content: drawn again when they are small, kept as `.npy` files when they are not.

    A file is an `.npy` array and the SHA-256 of all before it. It is written under another name and renamed, so it is
    whole or absent whoever is killed; a file that is damaged all the same is built again. Memory is that of the pages
    in use, which the processes of a machine share.

    Args:
        folder: Where files are; made when the first is written.
        smallest_file: Bytes below which an entry is not worth a file.
    """

    def __init__(self, folder: Path, smallest_file: int = 8 << 20) -> None:
        self._folder = folder
        self._smallest_file = smallest_file

    def arrays(self, key: tuple[str | int, ...], specs: Mapping[str, Spec], fill: Callable[[Arrays], None]) -> Arrays:
        """Return the arrays of an entry.

        Args:
            key: Everything that decides the values.
            specs: The arrays by name.
            fill: Writes the values into arrays of those shapes; a pure function of the key.
        """
        if sum(spec.length * np.dtype(spec.dtype).itemsize for spec in specs.values()) < self._smallest_file:
            arrays = {name: np.empty(spec.length, spec.dtype) for name, spec in specs.items()}
            fill(arrays)
            return arrays
        name = hashlib.sha256(json.dumps([np.__version__, *key]).encode()).hexdigest()[:32]
        paths = {array: self._folder / f"{name}-{array}.npy" for array in specs}
        found = _open(paths)
        if found is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(self._folder / f"{name}.lock"):
                found = _open(paths) or _build(paths, specs, fill)
        return found


def blocks(length: int) -> Iterator[slice]:
    """Yield the parts of an array that is filled piece by piece, because it may be larger than memory."""
    return (slice(start, min(start + _BLOCK, length)) for start in range(0, length, _BLOCK))


def _open(paths: Mapping[str, Path]) -> Arrays | None:
    """Map the arrays of an entry if all of them are there and whole."""
    arrays = {}
    for name, path in paths.items():
        if not path.exists() or path.stat().st_size <= _DIGEST_BYTES:
            return None
        content = np.memmap(path, np.uint8, "r")
        if hashlib.sha256(content[:-_DIGEST_BYTES].data).digest() != content[-_DIGEST_BYTES:].tobytes():
            return None
        arrays[name] = np.asarray(np.lib.format.open_memmap(path, mode="r"))
    return arrays


def _build(paths: Mapping[str, Path], specs: Mapping[str, Spec], fill: Callable[[Arrays], None]) -> Arrays:
    own = uuid.uuid4().hex
    partial = {name: path.with_name(f"{path.name}.{own}.partial") for name, path in paths.items()}
    try:
        fill({name: _create(partial[name], spec) for name, spec in specs.items()})
        for path in partial.values():
            _seal(path)
        for name, path in paths.items():
            partial[name].rename(path)
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
    arrays = _open(paths)
    assert arrays is not None
    return arrays


def _create(path: Path, spec: Spec) -> Array:
    array = np.lib.format.open_memmap(path, "w+", spec.dtype, (spec.length,))
    with path.open("r+b") as file:
        # A store into a mapped hole of a full disk would kill the process; this raises instead.
        os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    # The base class: Generator.shuffle is many times slower on a subclass.
    return np.asarray(array)


def _seal(path: Path) -> None:
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0, os.SEEK_END)
        file.write(digest)


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process in; the others would build the same."""
    with path.open("w") as file:
        # Some shared file systems have no locks. Then each process builds, and the last rename stands.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
