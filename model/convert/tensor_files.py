"""Safetensors files, tensor by tensor: read into memory that is there, written in any order. Neither maps a file."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.errors import UserError

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types that are read and written, as safetensors names them: float32 holds each exactly."""
_ORDER = list(DTYPES.values())  # as safetensors sorts them in a file
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Spec:
    """What a tensor is."""

    dtype: torch.dtype
    """Its type."""
    shape: tuple[int, ...]
    """Its sizes."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Entry:
    """A tensor in a file."""

    file: Path
    """The file."""
    begin: int
    """Its first byte in it."""
    dtype: str
    """Its type as safetensors names it, which may be none of `DTYPES`."""
    shape: tuple[int, ...]
    """Its sizes."""
    nbytes: int
    """Its size in bytes."""


def entries(file: Path) -> dict[str, Entry]:
    """Return the tensors of a file by name.

    Raises:
        UserError: It is missing, cut off or otherwise damaged.
    """
    try:
        with safe_open(file, "pt"):  # checks it all
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except FileNotFoundError:
        raise UserError(f"'{file}' is missing; bring it back, or choose another folder") from None
    except SafetensorError as error:
        raise UserError(f"'{file}' is damaged ({error}); copy it again") from None
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[name] = Entry(file, 8 + length + begin, entry["dtype"], tuple(entry["shape"]), end - begin)
    return found


def read(entry: Entry) -> Tensor:
    """Return a tensor of a file, in its own type and in memory of its own."""
    tensor = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
    with entry.file.open("rb") as stream:
        stream.seek(entry.begin)
        if stream.readinto(_bytes(tensor)) < tensor.nbytes:
            raise UserError(f"'{entry.file}' was cut off while it was read; copy it again")
    return tensor


class Writer:
    """A file whose tensors are known before their values, which come in any order; it is open from first to last.

    Its bytes are those of `safetensors.torch.save_file(tensors, file, {"format": "pt"})`.

    Args:
        file: The file to make.
        tensors: What is in it by name.
    """

    def __init__(self, file: Path, tensors: Mapping[str, Spec]) -> None:
        self._missing = set(tensors)
        order = sorted(tensors, key=lambda name: (_ORDER.index(tensors[name].dtype), name))
        ends = list(itertools.accumulate(tensors[name].nbytes for name in order))
        places = dict(zip(order, zip([0, *ends], ends, strict=False), strict=True))
        header = _header(tensors, places)
        self._file = file
        self._header = len(header).to_bytes(8, "little") + header
        self._begin = {name: len(self._header) + begin for name, (begin, _) in places.items()}
        self._stream: BinaryIO | None = None

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, of the type and shape that were announced, at its place."""
        self._missing.remove(name)
        if self._stream is None:
            self._stream = self._file.open("wb")
            self._stream.write(self._header)
        self._stream.seek(self._begin[name])
        self._stream.write(_bytes(tensor.contiguous()))
        if not self._missing:
            self._stream.close()

    def close(self) -> None:
        """Close the file, which is whole only if every tensor was written."""
        if self._stream:
            self._stream.close()


def _header(tensors: Mapping[str, Spec], places: Mapping[str, tuple[int, int]]) -> bytes:
    """Return the JSON that describes a file, filled up so that the data begin at a multiple of 8."""
    described: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, place in places.items():
        dtype, shape = _NAMES[tensors[name].dtype], list(tensors[name].shape)
        described[name] = {"dtype": dtype, "shape": shape, "data_offsets": list(place)}
    header = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    return header + b" " * (-len(header) % 8)


def _bytes(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data
