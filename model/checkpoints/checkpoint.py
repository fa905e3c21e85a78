"""Checkpoints of a run: rolling ones in its folder, from which it continues, and released ones, which are results.

A checkpoint is a folder in Megatron-Core's sharded format, loadable under any layout, with a record of its files'
digests. It is there whole or not at all, and its bytes are a function of the state: not of the moment, the process,
the folder's name, or whether training went on while it was written.
"""

import itertools
import re
import shutil
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core import dist_checkpointing  # noqa: E402 - after install

from model import parallel  # noqa: E402
from model.checkpoints import digests, random_states  # noqa: E402
from model.checkpoints.writer import PARTIAL, Place, Write  # noqa: E402
from model.launching.runtime import RuntimeSettings  # noqa: E402
from model.progress import Progress  # noqa: E402
from stages.errors import UserError  # noqa: E402
from stages.files import read_json  # noqa: E402

_PLACE = "progress.json"
_DISCARDED = ".discarded"
_STEP = re.compile(r"step-\d{8,}")
T = TypeVar("T")


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint at `path`, whole or not at all; every rank calls this.

    Args:
        path: The folder to make; one that is there is replaced.
        state: A sharded state dict, which is taken apart.

    Raises:
        UserError: On every rank, if one of them could not write, for want of space or otherwise.
    """
    Write(path, state, {}).finish()


def stream(path: Path, state: dict[str, Any], documents: dict[str, Any], value: Callable[[Place], Tensor]) -> None:
    """Write a checkpoint of more tensors than there is memory for, whole or not at all.

    Args:
        path: As for `save`.
        state: As for `save`, of tensors on the meta device.
        documents: Files to put in, by name: bytes, or what JSON is made of.
        value: Returns the value of the tensor of a name that begins at a place, in the order of names and places.
            What it raises is raised here, and nothing is left of the checkpoint.

    Raises:
        UserError: As for `save`.
    """
    write = Write(path, state, documents, value)
    try:
        write.finish()
    except BaseException:
        write.abandon()
        raise


def load(path: Path, state: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a checkpoint, written under any layout; every rank calls this.

    Args:
        path: A checkpoint; its digests are not checked.
        state: A sharded state dict that says what is wanted. Its tensors are overwritten. The random states that the
            checkpoint lacks, because another layout wrote it, are left out.
    """
    loaded: dict[str, Any] = dist_checkpointing.load(random_states.without_foreign(state, path), str(path))
    return loaded


def verify(path: Path) -> list[str]:
    """Return what is wrong with a checkpoint, the same on every rank; every rank calls this, and reads its share."""
    world_size = dist.get_world_size()
    faults: list[list[str]] = [[]] * world_size
    dist.all_gather_object(faults, digests.faults(path, dist.get_rank(), world_size))
    return sorted(set().union(*faults))


def read_progress(path: Path) -> Progress:
    """Return how far the run was that wrote the rolling checkpoint at `path`."""
    return Progress.model_validate(read_json(path / _PLACE)["progress"])


class Checkpoints:
    """The checkpoints of one run. Every rank makes one and calls the same methods in the same order.

    Args:
        folder: The run's. What an earlier process left unfinished there is removed.
        runtime: How many are kept, and whether training goes on while one is written.
        interval: Steps between two regular ones.
        fingerprint: Of the job. It is written into each, and one with another is refused.
    """

    def __init__(self, folder: Path, runtime: RuntimeSettings, interval: int, fingerprint: str) -> None:
        self._folder = folder
        self._runtime = runtime
        self._interval = interval
        self._fingerprint = fingerprint
        self._in_flight: deque[Write] = deque()
        self._memory: dict[Place, Tensor] = {}
        self._sound: set[int] = set()
        self.damaged: list[str] = []
        """What `newest` found wrong, for people."""
        if parallel.is_first():
            for ending in (PARTIAL, _DISCARDED):
                for leftover in folder.rglob("step-*" + ending):
                    shutil.rmtree(leftover)
        dist.barrier()

    def path(self, step: int) -> Path:
        """Return where the rolling checkpoint after a step stands."""
        return self._folder / f"step-{step:08d}"

    def regular(self, step: int) -> int:
        """Return where a roll-back from within a step goes: the last regular checkpoint before it, or 0."""
        return (step - 1) // self._interval * self._interval

    def newest(self) -> int | None:
        """Return the newest step with a sound checkpoint; damaged ones are put aside and told in `damaged`.

        Raises:
            UserError: It is of another job.
        """
        for step in reversed(_from_first(self._steps)):
            faults = verify(self.path(step))
            if not faults:
                self._require_own(step)
                self._sound.add(step)
                return step
            aside = _from_first(partial(_put_aside, self.path(step)))
            self.damaged.append(f"'{self.path(step)}' is damaged and now '{aside.name}': {'; '.join(faults)}")
        return None

    def load(self, step: int, state: dict[str, Any]) -> tuple[dict[str, Any], Progress]:
        """Return the content of a rolling checkpoint; later ones are deleted, since the run goes another way now.

        Args:
            step: The step after which it was saved.
            state: As for the function `load`.

        Raises:
            UserError: It is damaged.
        """
        self.finish()
        path = self.path(step)
        faults = [] if step in self._sound else verify(path)
        if faults:
            raise UserError(f"'{path}' is damaged: {'; '.join(faults)}. Delete it and run again to continue before it.")
        if parallel.is_first():
            for later in self._steps():
                if later > step:
                    _discard(self.path(later))
        return load(path, state), read_progress(path)

    def save(self, step: int, state: dict[str, Any], progress: Progress) -> None:
        """Write a rolling checkpoint, while training goes on if the runtime says so.

        It returns after a copy, but waits first for the one before it. Those too old are deleted when it is whole.

        Args:
            step: The step that was taken.
            state: A sharded state dict, which is taken apart.
            progress: What is saved beside it.

        Raises:
            UserError: This one, or the one before it, could not be written.
        """
        self._write(self.path(step), state, progress)

    def release(self, step: int, state: dict[str, Any], progress: Progress | None = None) -> None:
        """Write a checkpoint that is kept, as `released/step-XXXXXXXX`; otherwise as `save`.

        What is written appears in the order of the calls: if every step releases before it saves, a run that continues
        from a rolling checkpoint has all that were released before it.

        Args:
            step: As for `save`.
            state: Of the weights alone, or of everything.
            progress: With everything, so that another run can branch off.
        """
        self._write(self._folder / "released" / self.path(step).name, state, progress)

    def poll(self) -> None:
        """Put in place what has been written meanwhile; a reduction of one number while something is under way.

        Raises:
            UserError: Something could not be written.
        """
        while self._in_flight and _everywhere(self._in_flight[0].has_ended()):
            self._settle(self._in_flight.popleft())

    def finish(self) -> None:
        """Wait for what is being written.

        Raises:
            UserError: Something could not be written.
        """
        while self._in_flight:
            self._settle(self._in_flight.popleft())

    def _write(self, path: Path, state: dict[str, Any], progress: Progress | None) -> None:
        if any(other.path.parent == path.parent for other in self._in_flight):
            self.finish()
        place = progress and {"fingerprint": self._fingerprint, "progress": progress.model_dump(mode="json")}
        write = Write(path, state, {_PLACE: place} if place else {})
        if self._runtime.async_checkpoints:
            write.begin(self._memory if path.parent == self._folder else {})
            self._in_flight.append(write)
        else:
            self._settle(write)

    def _settle(self, write: Write) -> None:
        """Finish a write, then delete what it makes superfluous."""
        write.finish()
        if write.path.parent == self._folder:
            self._sound.add(_step(write.path))
            if parallel.is_first():
                self._prune()

    def _prune(self) -> None:
        """Delete all but the newest, and the newest regular one, to which a run that was paused may yet roll back."""
        steps = self._steps()
        regular = [step for step in steps if step % self._interval == 0]
        for step in set(steps[: -self._runtime.keep_checkpoints]) - set(regular[-1:]):
            _discard(self.path(step))

    def _steps(self) -> list[int]:
        """Return the steps with a checkpoint, oldest first."""
        return sorted(_step(path) for path in self._folder.glob("step-*") if _STEP.fullmatch(path.name))

    def _require_own(self, step: int) -> None:
        fingerprint = read_json(self.path(step) / _PLACE)["fingerprint"]
        if fingerprint != self._fingerprint:
            raise UserError(
                f"'{self.path(step)}' is a checkpoint of another job ({fingerprint[:16]}, not "
                f"{self._fingerprint[:16]}); delete '{self._folder}' and run again"
            )


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _put_aside(path: Path) -> Path:
    """Give a damaged checkpoint a name under which it is not found again, and return it."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in itertools.count(1))
    return path.rename(next(name for name in names if not name.exists()))


def _discard(path: Path) -> None:
    """Delete a checkpoint, at once as far as names go; gigabytes of pages are given back while training goes on."""
    discarded = path.with_name(path.name + _DISCARDED)
    shutil.rmtree(discarded, ignore_errors=True)
    path.rename(discarded)
    threading.Thread(target=shutil.rmtree, args=(discarded, True), daemon=True).start()


def _everywhere(value: bool) -> bool:
    """Return whether something holds on every rank."""
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    least = torch.tensor(int(value), device=device)
    dist.all_reduce(least, dist.ReduceOp.MIN)
    return bool(least.item())


def _from_first(compute: Callable[[], T]) -> T:
    """Return on every rank what the first computes."""
    value: list[T | None] = [compute() if parallel.is_first() else None]
    dist.broadcast_object_list(value, src=0)
    return cast(T, value[0])
