"""Carries out independent pieces of work, on this machine or on a cluster, and keeps what is finished.

A piece of work writes files into a folder that it is given. The folder appears under its key, whole or not at all,
so a run that was killed goes on from its finished pieces, and pieces whose keys have not changed are not done again.
What a piece writes is a function of its key alone: results depend neither on the engine nor on the number of
workers. A worker that is killed costs the piece it was at, which is done again.
"""

import multiprocessing
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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


def run(work: Mapping[str, Work], scratch: Path, engine: Local | Ray) -> list[Path]:
    """Carry out the work that is not done yet.

    Args:
        work: By its key, which names its result.
        scratch: Where results are kept, on a file system that all workers share.
        engine: Who does it.

    Returns:
        The result folder of each piece, in order.

    Raises:
        UserError: A piece of work raised it, or workers are killed again and again.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    _sweep(scratch)
    folders = {scratch / key: piece for key, piece in work.items()}
    todo = {folder: piece for folder, piece in folders.items() if not folder.exists()}
    if engine.kind == "ray":
        _on_ray(todo, engine)
    elif engine.workers == 1:
        for folder, piece in todo.items():
            finish(piece, folder)
    else:
        _on_processes(todo, engine.workers)
    _sweep(scratch)
    return list(folders)


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


def _on_processes(todo: dict[Path, Work], workers: int) -> None:
    """Have a pool of processes do it, and a new pool what a killed one has left."""
    kills = 0
    while left := {folder: piece for folder, piece in todo.items() if not folder.exists()}:
        if _until_broken(left, workers):
            return
        kills = 0 if any(folder.exists() for folder in left) else kills + 1
        if kills == ATTEMPTS:
            raise UserError(
                f"Workers were killed {ATTEMPTS} times in a row before one was finished; {len(left)} pieces of work "
                "are left. Most likely memory ran out: lower the number of workers, or snapshot.shard_bytes."
            )


def _until_broken(todo: dict[Path, Work], workers: int) -> bool:
    """Return whether it was all done; a killed worker breaks its pool."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(todo)), context, initializer=_one_thread) as pool:
        try:
            for future in as_completed([pool.submit(finish, piece, folder) for folder, piece in todo.items()]):
                future.result()
        except BrokenProcessPool:
            return False
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return True


def _on_ray(todo: dict[Path, Work], engine: Ray) -> None:
    """Submit it to Ray, which does again what a killed worker or a lost machine was at."""
    try:
        import ray
    except ImportError:
        raise UserError("The engine is 'ray', which is not installed: pip install ray.") from None
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}}
    cores = {"num_cpus": engine.workers} if engine.address is None else {}
    ray.init(address=engine.address, runtime_env=environment, log_to_driver=False, include_dashboard=False, **cores)
    try:
        _submit(ray, todo, engine.workers)
    finally:
        ray.shutdown()


def _submit(ray: Any, todo: dict[Path, Work], workers: int) -> None:
    task = ray.remote(num_cpus=1, max_retries=-1)(_finish_on_one_thread)
    waiting = list(todo.items())
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < workers:
            folder, piece = waiting.pop(0)
            running.append(task.remote(piece, folder))
        done, running = ray.wait(running)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def _finish_on_one_thread(piece: Work, folder: Path) -> None:
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
