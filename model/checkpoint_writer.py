"""Writes one checkpoint in Megatron-Core's sharded format, whole or not at all, with bytes of the state alone.

Megatron-Core's own saving starts a helper process that imports torch (2 s at the first save), pickles by identity of
objects, waits for ever for a writer that was killed, and leaves the other ranks waiting when one cannot write. So its
planning and its format are taken, and the rest is here: each rank writes one file, in its own process or in a fork of
it, what it wrote comes back through a temporary file, and a failure on one rank is raised on all.
"""

import io
import os
import pickle
import queue
import shutil
import signal
import tempfile
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model import megatron

megatron.install()

from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config  # noqa: E402 - after install
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess  # noqa: E402
from megatron.core.dist_checkpointing.strategies import filesystem_async  # noqa: E402
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest  # noqa: E402
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME  # noqa: E402
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync  # noqa: E402
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy  # noqa: E402
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION  # noqa: E402
from torch.distributed.checkpoint.metadata import Metadata  # noqa: E402
from torch.distributed.checkpoint.planner import WriteItem  # noqa: E402
from torch.distributed.checkpoint.storage import WriteResult  # noqa: E402

from model import digests, parallel  # noqa: E402
from model.orphans import die_with_parent  # noqa: E402
from stages.errors import UserError  # noqa: E402
from stages.files import write_json  # noqa: E402

PARTIAL = ".partial"
"""Ending of the name of a checkpoint that is not whole."""

filesystem_async._get_write_results_queue = lambda: None  # the helper process; `_Outcome` does its work


class Write:
    """A checkpoint on its way to the disk; every rank makes one and takes each step with it.

    Args:
        path: The folder that appears when it is whole, in place of one that is there.
        state: A sharded state dict, which is taken apart. The tensors must not change before `now` has returned or
            `request` was scheduled.
        documents: JSON files to put in, by name.

    Raises:
        UserError: The folder cannot be made.
    """

    def __init__(self, path: Path, state: dict[str, Any], documents: dict[str, Any]) -> None:
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._documents = documents
        self._on_first(self._make_folder)
        sharded, common = save_preprocess(state)
        self._common = _by_value(common)
        self._plan = _Plan("torch_dist", 1, thread_count=1)
        self.request: AsyncRequest = self._plan.async_save(sharded, str(self._partial))
        """For Megatron-Core's queue: writes this rank's file in a fork of this process, then calls `finish`."""
        self.request.add_finalize_fn(self.finish)

    def now(self) -> None:
        """Write it in this process, and finish it.

        Raises:
            UserError: As `finish`.
        """
        if self.request.async_fn is not None:
            write, _ = self.request.async_fn_args
            write(self.request.preload_fn())
        self.finish()

    def finish(self) -> None:
        """Put it in its place, after this rank has written its file.

        Raises:
            UserError: On every rank, if any of them could not write its part. Nothing is left of it then.
        """
        parts: list[_Part | None] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, self._plan.outcome.get())
        self._on_first(lambda: self._complete([part for part in parts if part is not None]))

    def _on_first(self, action: Callable[[], None]) -> None:
        """Do something on the first rank; when it fails there, clear up and fail everywhere."""
        failure: list[str | None] = [None]
        if parallel.is_first():
            try:
                action()
            except OSError as error:
                shutil.rmtree(self._partial, ignore_errors=True)
                failure = [str(error)]
        dist.broadcast_object_list(failure, src=0)
        if failure[0] is not None:
            raise UserError(
                f"the checkpoint '{self._path}' could not be written: {failure[0]}. Those before it are whole: "
                f"free space in '{self._path.parent}' and run again to continue."
            )

    def _make_folder(self) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)

    def _complete(self, parts: list["_Part"]) -> None:
        """Write what is not of one rank, then the digests of everything, and give the folder its name."""
        failures = [f"rank {rank}: {part.failure}" for rank, part in enumerate(parts) if part.failure]
        if failures:
            raise OSError("; ".join(failures))
        self._write_index(result for part in parts for result in part.results)
        (self._partial / COMMON_STATE_FNAME).write_bytes(self._common)
        save_config(CheckpointingConfig(self._plan.backend, self._plan.version), str(self._partial))
        for name, document in self._documents.items():
            write_json(self._partial / name, document)
        measured = {name: digest for part in parts for name, digest in part.digests.items()}
        rest = sorted(file for file in self._partial.iterdir() if file.name not in measured)
        digests.write(self._partial, measured | {file.name: digests.measure(file) for file in rest})
        for file in [*rest, self._partial / digests.NAME, self._partial]:
            _flush(file)
        shutil.rmtree(self._path, ignore_errors=True)
        self._partial.rename(self._path)
        _flush(self._path.parent)

    def _write_index(self, results: Iterable[WriteResult]) -> None:
        """Write what and where every tensor is, in the order of their names, without the plans of the ranks."""
        assert self._plan.index is not None, "the first rank has it"
        index = Metadata(
            state_dict_metadata=dict(sorted(self._plan.index.state_dict_metadata.items())),
            storage_data=dict(sorted(((entry.index, entry.storage_data) for entry in results), key=repr)),
            version=CURRENT_DCP_VERSION,
        )
        with (self._partial / ".metadata").open("wb") as file:
            _ByValue(file).dump(index)


def _flush(path: Path) -> None:
    """Make a file or a folder's names survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _ByValue(pickle.Pickler):
    """Writes equal values as equal bytes: which of them are one object in memory differs after a resume."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fast = True  # no memo


_PICKLE_BY_VALUE = types.SimpleNamespace(__name__="pickle_by_value", Pickler=_ByValue)
"""As much of a pickle module as torch.save asks for."""


def _by_value(value: Any) -> bytes:
    """Return what torch.save makes of a value, of no more than its value."""
    file = io.BytesIO()
    torch.save(value, file, pickle_module=_PICKLE_BY_VALUE)
    return file.getvalue()


class _Plan(TorchDistSaveShardedStrategy):
    """Megatron-Core's planning of a save, without its writing and finishing."""

    index: Metadata | None
    """On the first rank, what the tensors are; where they are is known when they are written."""
    outcome: "_Outcome"
    """What comes of this rank's part."""

    def _get_save_and_finalize_callbacks(self, writer: Any, planned: tuple[Any, ...]) -> AsyncRequest:
        self.index = planned[1]
        self.outcome = _Outcome()
        if not writer.write_buckets:
            self.outcome.put(_Part([], {}))
            return AsyncRequest(None, (), [])
        write = partial(_write, writer.transforms, self.outcome)
        copy = partial(writer.preload_tensors, writer.write_buckets)  # from the GPU; it takes the place of None
        return AsyncRequest(partial(_write_apart, os.getpid()), (write, None), [], preload_fn=copy)


@dataclass(frozen=True)
class _Part:
    """What came of the file of one rank."""

    results: list[WriteResult]
    """Where each tensor stands in it."""
    digests: dict[str, digests.Digest]
    """Of it, by name."""
    failure: str | None = None
    """Why it could not be written."""


class _Outcome:
    """Carries a part from the process that writes it to the one that this was forked from."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object

    def put(self, part: _Part) -> None:
        pickle.dump(part, self._file)
        self._file.flush()

    def get(self) -> _Part:
        self._file.seek(0)
        try:
            part: _Part = pickle.load(self._file)
        except EOFError:
            return _Part([], {}, "the process that wrote it ended early")
        return part


def _write_apart(parent: int, write: Callable[[list[Any]], None], buckets: list[Any]) -> None:
    """Write this rank's file in a forked process, which must not outlive its rank, nor end before it."""
    die_with_parent()
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
    ):  # sent to a whole group of processes; the rank decides
        signal.signal(number, signal.SIG_IGN)
    if os.getppid() == parent:
        write(buckets)


def _write(transforms: Any, outcome: _Outcome, buckets: list[Any]) -> None:
    """Write this rank's file, and tell the outcome whatever comes of it."""
    [(path, name, (objects, tensors))] = buckets
    objects = [(item, io.BytesIO(_by_value(_restored(data)))) for item, data in objects]
    bucket = (path, name, (sorted(objects, key=_place), sorted(tensors, key=_place)))
    results: queue.SimpleQueue[tuple[int, list[WriteResult] | Exception]] = queue.SimpleQueue()
    unfinished: queue.Queue[int] = queue.Queue()
    unfinished.put(0)
    FileSystemWriterAsync.write_preloaded_data([transforms], 0, bucket, results, unfinished, use_fsync=True)
    _, written = results.get()
    if isinstance(written, Exception):
        outcome.put(_Part([], {}, str(_first_cause(written))))
    else:
        outcome.put(_Part(written, {name: digests.measure(Path(path))}))


def _first_cause(error: BaseException) -> BaseException:
    """Return where an exception began: torch raises one of its own while it closes a file that did not fit."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _restored(data: io.BytesIO) -> Any:
    """Return what torch.save wrote there."""
    data.seek(0)
    return torch.load(data, weights_only=False)


def _place(entry: tuple[WriteItem, Any]) -> tuple[str, tuple[int, ...]]:
    """Return what entries of a file are sorted by; the order in the state dict may differ after a resume."""
    index = entry[0].index
    return index.fqn, tuple(index.offset or ())
