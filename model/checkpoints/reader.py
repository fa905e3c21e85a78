"""Reads a checkpoint tensor by tensor, in one process and with the memory of one: no process group, no whole model."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.utils import _create_file_view

from stages.errors import UserError


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint, whatever ranks wrote it."""

    shape: tuple[int, ...]
    """Its sizes; those of a layer's weight begin with the number of layers."""
    dtype: torch.dtype
    """Its type."""


class Reader:
    """The tensors of a checkpoint in Megatron-Core's sharded format.

    Args:
        path: Its folder.

    Raises:
        UserError: There is no readable checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._index = FileSystemReader(path).read_metadata()
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise UserError(f"'{path}' is no whole checkpoint: its .metadata cannot be read ({error})") from None
        entries = self._index.state_dict_metadata.items()
        self._tensors = {key: entry for key, entry in entries if isinstance(entry, TensorStorageMetadata)}
        self._chunks = {
            (key, tuple(chunk.offsets)): chunk for key, entry in self._tensors.items() for chunk in entry.chunks
        }
        self.tensors = {key: Stored(tuple(entry.size), entry.properties.dtype) for key, entry in self._tensors.items()}
        """Every tensor by its name there."""

    def read(self, key: str, offset: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Return a part of a stored tensor, in its type.

        Args:
            key: The stored tensor.
            offset: Where in it the part begins.
            shape: The part's sizes.

        Raises:
            UserError: A file is missing or damaged, or no rank wrote some of the part.
        """
        exact = self._chunks.get((key, tuple(offset)))
        if exact and tuple(exact.sizes) == tuple(shape):
            return self._load(key, exact)  # there may be thousands of others, which are not looked at
        part = torch.empty(tuple(shape), dtype=self.tensors[key].dtype)
        missing = part.numel()
        for chunk in self._tensors[key].chunks:
            theirs, ours = _common(chunk.offsets, chunk.sizes, offset, shape)
            if all(common.start < common.stop for common in ours):
                part[ours] = self._load(key, chunk)[theirs]
                missing -= part[ours].numel()
        if missing:
            raise UserError(f"'{self._path}' lacks {missing} elements of {key} from {tuple(offset)} on; save it again")
        return part

    def _load(self, key: str, chunk: ChunkStorageMetadata) -> Tensor:
        place = self._index.storage_data[MetadataIndex(key, chunk.offsets)]
        file = self._path / place.relative_path
        try:
            with file.open("rb") as stream:
                view = _create_file_view(stream, place.offset, place.length)
                stored: Tensor = torch.load(cast(IO[bytes], view), map_location="cpu", weights_only=True)
                return stored
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise UserError(f"'{file}' is missing or damaged at {key} ({error}); bring it back") from None


def _common(
    at: Sequence[int], size: Sequence[int], offset: Sequence[int], shape: Sequence[int]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the common part of two boxes is in each; empty slices where there is none."""
    theirs, ours = [], []
    for a, n, b, m in zip(at, size, offset, shape, strict=True):
        first, last = max(a, b), min(a + n, b + m)
        theirs.append(slice(first - a, last - a))
        ours.append(slice(first - b, last - b))
    return tuple(theirs), tuple(ours)
