"""Writes one checkpoint in Megatron-Core's sharded format, whole or not at all, with bytes of the state alone.

Megatron-Core's own saving starts a helper process that imports torch (2 s at the first save), forks the training
process (every page that a step then touches is copied by itself: 2 s at 50 M parameters on a virtual machine, where a
plain copy takes a tenth), pickles by identity of objects, and leaves the other ranks waiting when one cannot write. So
its planning and its format are taken, and the rest is here: each rank writes one file, at once or from a copy in a
thread, and a failure on one rank is raised on all.
"""

import io
import os
import pickle
import shutil
import threading
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from model import megatron

megatron.install()

from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config  # noqa: E402 - after install
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess  # noqa: E402
from megatron.core.dist_checkpointing.strategies import torch as torch_strategies  # noqa: E402
from megatron.core.dist_checkpointing.strategies.common import COMMON_STATE_FNAME  # noqa: E402
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync  # noqa: E402
from torch.distributed.checkpoint.filesystem import (  # noqa: E402
    CURRENT_DCP_VERSION,
    DEFAULT_SUFFIX,
    SerializationFormat,
    _StorageWriterTransforms,
    _write_item,
)
from torch.distributed.checkpoint.metadata import Metadata  # noqa: E402
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem  # noqa: E402
from torch.distributed.checkpoint.storage import WriteResult  # noqa: E402

from model import parallel  # noqa: E402
from model.checkpoints import digests  # noqa: E402
from stages.errors import UserError  # noqa: E402
from stages.files import write_json  # noqa: E402

PARTIAL = ".partial"
"""Ending of the name of a checkpoint that is not whole."""

Place = tuple[str, tuple[int, ...]]
"""Name of a tensor, and where in it a rank's part begins."""
_PLAIN = _StorageWriterTransforms()


class Write:
    """A checkpoint on its way to the disk; every rank makes one and takes each step with it.

    Args:
        path: The folder that appears when it is whole, in place of one that is there.
        state: A sharded state dict, which is taken apart.
        documents: Files to put in, by name: bytes, or what JSON is made of.
        value: Returns the value of a tensor when its turn comes, for a state of tensors without memory.

    Raises:
        UserError: The folder cannot be made.
    """

    def __init__(
        self,
        path: Path,
        state: dict[str, Any],
        documents: dict[str, Any],
        value: Callable[[Place], Tensor] | None = None,
    ) -> None:
        self.path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._documents = documents
        self._value = value
        self._thread = threading.Thread(target=self._write)
        self._on_first(self._make_folder)
        sharded, common = save_preprocess(state)
        self._common = _by_value(common)
        self._plan = _Plan("torch_dist", 1, thread_count=1)
        self._plan.async_save(sharded, str(self._partial))
        self._part = _Part([], {}, "its writer ended early") if self._plan.file else _Part([], {})

    def begin(self, memory: dict[Place, Tensor]) -> None:
        """Write this rank's file in a thread; return as soon as the state may change.

        Args:
            memory: Where the tensors are copied to, from one checkpoint to the next: new pages cost more than a copy.
        """
        if self._plan.file:
            self._plan.file.copy(memory)
        self._thread.start()

    def has_ended(self) -> bool:
        """Return whether this rank's file, which was begun, is written or could not be."""
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Write this rank's file, or wait until it is written, and put all in place when every rank has come so far.

        Raises:
            UserError: On every rank, if any of them could not write its part. Nothing is left of it then.
        """
        if self._thread.ident is None:
            self._write()
        else:
            self._thread.join()
        parts: list[_Part] = [self._part] * dist.get_world_size()
        dist.all_gather_object(parts, self._part)
        self._on_first(lambda: self._complete(parts))

    def abandon(self) -> None:
        """Clear up after a write that did not come to its end."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def _write(self) -> None:
        if self._plan.file:
            self._part = self._plan.file.write(self._value)

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
                f"the checkpoint '{self.path}' could not be written: {failure[0]}. Those before it are whole: "
                f"free space in '{self.path.parent}' and run again to continue."
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
            _write_document(self._partial / name, document)
        measured = {name: digest for part in parts for name, digest in part.digests.items()}
        found = {path.relative_to(self._partial).as_posix(): path for path in sorted(self._partial.rglob("*"))}
        rest = {name: path for name, path in found.items() if name not in measured and path.is_file()}
        digests.write(self._partial, measured | {name: digests.measure(file) for name, file in rest.items()})
        for file in [*rest.values(), self._partial / digests.NAME, self._partial]:
            _flush(file)
        shutil.rmtree(self.path, ignore_errors=True)
        self._partial.rename(self.path)
        _flush(self.path.parent)

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


def _write_document(file: Path, document: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    if isinstance(document, bytes):
        file.write_bytes(document)
    else:
        write_json(file, document)


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


class _Writer(FileSystemWriterAsync):
    """Megatron-Core's writer, which only takes down what is to be written."""

    file: "_File | None" = None

    def prepare_write_data(self, plan: SavePlan, planner: SavePlanner) -> None:
        name = f"{plan.storage_data.prefix}0{DEFAULT_SUFFIX}"
        if plan.items:
            self.file = _File(
                Path(self.checkpoint_dir, name), [(item, planner.resolve_data(item)) for item in plan.items]
            )


torch_strategies.FileSystemWriterAsync = _Writer


class _Plan(torch_strategies.TorchDistSaveShardedStrategy):
    """Megatron-Core's planning of a save, without its writing and finishing."""

    index: Metadata | None
    """On the first rank, what the tensors are; where they are is known when they are written."""
    file: "_File | None"
    """This rank's file, if it has anything to write."""

    def _get_save_and_finalize_callbacks(self, writer: _Writer, planned: tuple[Any, ...]) -> None:
        self.index, self.file = planned[1], writer.file


@dataclass(frozen=True)
class _Part:
    """What came of the file of one rank."""

    results: list[WriteResult]
    """Where each tensor stands in it."""
    digests: dict[str, digests.Digest]
    """Of it, by name; none, if the rank had nothing to write."""
    failure: str | None = None
    """Why it could not be written."""


class _File:
    """The file of one rank.

    Args:
        path: Where it is to be.
        content: Tensors, and what torch.save made of objects, each with its entry in the index.
    """

    def __init__(self, path: Path, content: list[tuple[WriteItem, Any]]) -> None:
        self._path = path
        content = sorted(content, key=lambda entry: _place(entry[0]))
        self._objects = [(item, _by_value(_restored(data))) for item, data in content if isinstance(data, io.BytesIO)]
        self._tensors = [(item, tensor.detach()) for item, tensor in content if isinstance(tensor, Tensor)]

    def copy(self, memory: dict[Place, Tensor]) -> None:
        """Copy the tensors, so that the originals may change; `memory` has the copies of the save before."""
        for index, (item, tensor) in enumerate(self._tensors):
            place = _place(item)
            if place not in memory:
                memory[place] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._tensors[index] = item, memory[place].copy_(tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def write(self, value: Callable[[Place], Tensor] | None) -> _Part:
        """Write it, tensor by tensor, and return what came of it; `value` is that of `Write`."""
        try:
            with self._path.open("wb") as stream:
                results = [self._entry(stream, item, io.BytesIO(data)) for item, data in self._objects]
                for item, tensor in self._tensors:
                    tensor = value(_place(item)) if value else tensor.cpu()
                    results.append(self._entry(stream, item, _compact(tensor)))
                stream.flush()
                os.fsync(stream.fileno())
            return _Part(results, {self._path.name: digests.measure(self._path)})
        except (OSError, RuntimeError) as error:
            return _Part([], {}, str(_first_cause(error)))

    def _entry(self, stream: IO[bytes], item: WriteItem, data: io.BytesIO | Tensor) -> WriteResult:
        return _write_item(_PLAIN, cast(io.IOBase, stream), data, item, self._path.name, SerializationFormat.TORCH_SAVE)


def _compact(tensor: Tensor) -> Tensor:
    """Return a tensor without the rest of a larger one that it is a part of, which torch.save would write too."""
    return tensor.clone() if tensor.untyped_storage().size() > tensor.nbytes else tensor


def _first_cause(error: BaseException) -> BaseException:
    """Return where an exception began: torch raises one of its own while it closes a file that did not fit."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _restored(data: io.BytesIO) -> Any:
    """Return what torch.save wrote there."""
    data.seek(0)
    return torch.load(data, weights_only=False)


def _place(item: WriteItem) -> Place:
    """Return what entries of a file are sorted by; their order in the state dict may differ after a resume."""
    return item.index.fqn, tuple(item.index.offset or ())
