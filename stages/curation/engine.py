"""Carries out independent pieces of work, on this machine or on a cluster, and keeps what is finished.

A piece of work writes files into a folder that it is given. The folder appears under its key, whole or not at all,
so a run that was killed goes on from its finished pieces, and pieces whose keys have not changed are not done again.
What a piece writes is a function of its key alone: results depend neither on the engine nor on the number of
workers. A worker that is killed costs the piece it was at, which is done again.

Ray's tasks are the distributed engine. Tried were these processes, datatrove's local executor, Ray, Ray Data and Daft,
with the pieces of a small corpus and two workers on one machine, not on a cluster. All five gave the same bytes; they
differ in the seconds that they take to start and in memory, and little in the work itself, as far as that could be
told from starting. What decided was a worker killed by the kernel, as it happens when memory runs out: Ray and Ray
Data did its piece again; datatrove's local executor, on `multiprocessing.Pool` as its Ray executor is, waited for
ever; Daft's own runner ended with an error. Ray Data adds to Ray tables that a piece of work has no use for.
tests/benchmarks/LOG.md has the figures. Ray runs inside a Slurm job, on Kubernetes, or on hosts that it is started on
by hand.
"""

import contextlib
import functools
import multiprocessing
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from stages.errors import UserError
from stages.settings import Settings

Work = Callable[[Path], None]
"""Writes its files into a new folder. It can be pickled."""

ATTEMPTS = 3
"""How often in a row workers may be killed without one piece of work being finished."""


class Local(Settings):
    """Processes on this machine."""

    kind: Literal["local"]
    """Picks this class."""
    workers: int = Field(gt=0)
    """Processes; each needs a core and some 300 MB."""


class Ray(Settings):
    """Ray's tasks (https://docs.ray.io), on a cluster that shares a file system and this checkout's path."""

    kind: Literal["ray"]
    """Picks this class."""
    address: str | None
    """The cluster's, `auto` for the one that this machine is part of; null starts one on this machine."""
    workers: int = Field(gt=0)
    """Pieces of work at once, a core each."""


Engine = Annotated[Local | Ray, Field(discriminator="kind")]


Workers = Callable[[dict[Path, Work]], None]
"""Makes each folder with its piece of work, in any order."""


@contextlib.contextmanager
def started(engine: Local | Ray) -> Iterator[Workers]:
    """Yield the workers of an engine; they end with the block.

    Raises:
        UserError: The engine is not installed.
    """
    if engine.kind == "ray":
        with _ray_session(engine) as ray:
            yield functools.partial(_on_ray, ray, engine.workers)
    elif engine.workers == 1:
        yield _here
    else:
        with contextlib.closing(_Processes(engine.workers)) as processes:
            yield processes


def run(work: Sequence[tuple[str, Work]], scratch: Path, workers: Workers) -> list[Path]:
    """Carry out the work that is not done yet.

    Args:
        work: Pieces with their keys, which name their results; equal keys, equal work.
        scratch: Where results are kept, on a file system that all workers share.
        workers: Who does it.

    Returns:
        The result folder of each piece, in order.

    Raises:
        UserError: A piece of work raised it, or workers are killed again and again.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if todo := {scratch / key: piece for key, piece in work if not (scratch / key).exists()}:
        _sweep(scratch)
        workers(todo)
        _sweep(scratch)
    return [scratch / key for key, _ in work]


def finish(piece: Work, folder: Path) -> None:
    """Make the folder of a piece of work, whole or not at all, unless it is there."""
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir()
    try:
        piece(partial)
        _sync(partial)
        _rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def prune(scratch: Path, keep: list[Path]) -> None:
    """Remove the results that the last run had no use for."""
    for folder in set(scratch.iterdir()) - set(keep):
        shutil.rmtree(folder)


def _here(todo: dict[Path, Work]) -> None:
    for folder, piece in todo.items():
        finish(piece, folder)


class _Processes:
    """A pool of processes, and a new one when a worker that was killed has broken it."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool = self._new()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, todo: dict[Path, Work]) -> None:
        kills = 0
        while left := {folder: piece for folder, piece in todo.items() if not folder.exists()}:
            try:
                return self._try(left)
            except BrokenProcessPool:
                kills = 0 if any(folder.exists() for folder in left) else kills + 1
            self.close()
            if kills == ATTEMPTS:
                raise UserError(
                    f"Workers were killed {ATTEMPTS} times in a row before one was done; {len(left)} pieces of work "
                    "are left. Most likely memory ran out: lower the number of workers, or snapshot.shard_bytes."
                )
            self._pool = self._new()
        return None

    def _try(self, todo: dict[Path, Work]) -> None:
        futures = [self._pool.submit(finish, piece, folder) for folder, piece in todo.items()]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            for future in futures:
                future.cancel()

    def _new(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, context, initializer=_one_thread)


@contextlib.contextmanager
def _ray_session(engine: Ray) -> Iterator[Any]:
    try:
        import ray
    except ImportError:
        raise UserError("The engine is 'ray', which is not installed: pip install ray.") from None
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)])
    cores: dict[str, Any] = {"num_cpus": engine.workers, "include_dashboard": False} if engine.address is None else {}
    ray.init(engine.address, runtime_env={"env_vars": {"PYTHONPATH": paths}}, log_to_driver=False, **cores)
    try:
        yield ray
    finally:
        ray.shutdown()


def _on_ray(ray: Any, workers: int, todo: dict[Path, Work]) -> None:
    """Submit it, as much at a time as is worked at; Ray does again what killed workers and lost machines were at."""
    task = ray.remote(num_cpus=1, max_retries=-1)(_finish_elsewhere)
    here = Path.cwd()
    waiting = iter(todo.items())
    running = [task.remote(piece, folder, here) for folder, piece in islice(waiting, workers)]
    while running:
        done, running = ray.wait(running)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        running += [task.remote(piece, folder, here) for folder, piece in islice(waiting, len(done))]


def _finish_elsewhere(piece: Work, folder: Path, here: Path) -> None:
    """Make the folder on another machine, where relative paths are to mean what they mean here."""
    os.chdir(here)
    _one_thread()
    finish(piece, folder)


def _one_thread() -> None:
    """Leave the other cores to the other workers."""
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def _rename(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another worker, thought dead, has been as quick; its files are the same
            raise


def _sync(folder: Path) -> None:
    """Have the files on the disk before their folder gets its name, so that no crash leaves it with empty ones."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _sweep(scratch: Path) -> None:
    """Remove what killed workers have left."""
    for partial in scratch.glob("*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
