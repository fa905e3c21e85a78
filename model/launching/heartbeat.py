"""Signs of life: a file of each process in the run's folder, by which one that is stuck is found. Imports no torch.

Ages are differences between times that the file system gave, never the clock of a node: nodes share the folder, but
not their clocks.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple


class Beat(NamedTuple):
    """The last sign of life of a process."""

    rank: int
    """The process."""
    step: int
    """The step it had reached."""
    age: float
    """Seconds since."""


def beat(folder: Path, rank: int, step: int) -> None:
    """Say that a process is alive: at its start, after every step, and during what takes longer than a step."""
    path = _path(folder, rank)
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(file, b"%020d" % step, 0)  # one write of one length: a reader finds this step or the one before
    finally:
        os.close(file)


def oldest(folder: Path, world_size: int) -> Beat | None:
    """Return the process that has been silent longest, or None before the first beat of any.

    A process without a file has not started: it is left out, for the others cannot go on without it and fall silent.
    """
    found = [(at, rank, step) for rank in range(world_size) for at, step in _read(_path(folder, rank))]
    if not found:
        return None
    at, rank, step = min(found)
    return Beat(rank, step, max(0.0, (_now(folder) - at) / 1e9))


def clear(folder: Path) -> None:
    """Forget the beats of an earlier attempt, whose ages would look like those of stuck processes."""
    shutil.rmtree(folder / "heartbeats", ignore_errors=True)


def _path(folder: Path, rank: int) -> Path:
    return folder / "heartbeats" / f"rank-{rank:05d}"


def _read(path: Path) -> list[tuple[int, int]]:
    """Return modification time in ns and step of a beat; nothing if there is none, or none yet in its new file."""
    try:
        with path.open("rb") as file:  # opening makes a network file system ask its server anew
            content = file.read()
            return [(os.fstat(file.fileno()).st_mtime_ns, int(content))] if content else []
    except FileNotFoundError:
        return []


def _now(folder: Path) -> int:
    """Return the time in ns by the clock that stamps the files of the folder."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as file:
        return os.fstat(file.fileno()).st_mtime_ns
