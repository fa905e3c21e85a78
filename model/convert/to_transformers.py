"""Writes the weights of a checkpoint as `transformers` has them, weight by weight: the memory is that of one or two."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoints.reader import Reader
from model.convert import tensor_files, unsplit
from model.convert.faults import differences, listed, require_finite
from model.convert.tensor_files import Spec, Writer
from model.convert.tensors_of_folder import INDEX
from model.families.family import ModelSettings
from model.families.weights import Weight, tensors
from stages.errors import UserError
from stages.files import write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Types that a model is written in, by the name that its configuration gives them."""
TRAINING = ("optimizer.", "average.")
"""Beginnings of the names of what a checkpoint holds beside the weights, to train on."""
SHARD_SIZE = 5 * 10**9
"""Largest size of a file in bytes, unless another is chosen; a larger tensor has a file of its own."""


class Export:
    """What is written of a checkpoint, and where to; nothing is read or written before it is asked for.

    Args:
        checkpoint: Weights of the model, written under any layout.
        model: Its settings.
        vocab_size: Its ids.
        dtype: Type of the tensors, or None to keep what is stored. Some are float32 in every model of a family.
        shard_size: Largest size of a file in bytes.

    Raises:
        UserError: The checkpoint is of another model, or not whole.
    """

    def __init__(
        self, checkpoint: Path, model: ModelSettings, vocab_size: int, dtype: torch.dtype | None, shard_size: int
    ) -> None:
        self._reader = Reader(checkpoint)
        self.weights = list(model.weights(vocab_size))
        """What is written, in this order."""
        skeleton = unsplit.skeleton(model, vocab_size)
        self._pieces = unsplit.pieces(skeleton)
        self._empty = {name: weight for name, weight in skeleton.state_dict().items() if name in self._pieces}
        assert self._pieces.keys() == {weight.megatron for weight in self.weights}
        self._check(checkpoint)
        self.dtypes = {weight.megatron: self._dtype(weight, dtype) for weight in self.weights}
        """Type of every weight of Megatron-Core by name."""
        self.tensors = dict(itertools.chain.from_iterable(map(self._specs, self.weights)))
        """Every tensor by name."""
        self.files = in_files(self.tensors, shard_size)
        """Names of the tensors of each file, by its name."""

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they are written."""
        return sum(spec.nbytes for spec in self.tensors.values())

    @property
    def written(self) -> int:
        """Bytes that are written, but for descriptions."""
        return self.nbytes

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors."""
        return sum(math.prod(spec.shape) for spec in self.tensors.values())

    @property
    def dtype(self) -> torch.dtype:
        """What `transformers` calls the model's type: that of its first tensor."""
        return next(iter(self.tensors.values())).dtype

    def write(self, folder: Path, progress: Callable[[int], object] = lambda _: None) -> None:
        """Write the tensors, and the index if there is more than one file.

        Args:
            folder: Where they are written; it exists.
            progress: Called with the bytes that have been written since.

        Raises:
            UserError: A weight is not finite, or cannot be read.
        """
        with contextlib.ExitStack() as stack:
            writers = self._open(folder, stack)
            for weight in self.weights:
                for name, tensor in tensors(weight, self.read(weight.megatron)):
                    writers[name].write(name, tensor)
                    progress(tensor.nbytes)
        if len(self.files) > 1:
            write_json(folder / INDEX, self._index())

    def check(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Read every weight, and forget it.

        Raises:
            UserError: As for `write`, but for the disk.
        """
        for weight in self.weights:
            for _, tensor in tensors(weight, self.read(weight.megatron)):
                progress(tensor.nbytes)

    def _open(self, folder: Path, stack: contextlib.ExitStack) -> dict[str, Writer]:
        """Return the file of each tensor; the files are closed with the stack."""
        writers: dict[str, Writer] = {}
        for file, names in self.files.items():
            writer = Writer(folder / file, {name: self.tensors[name] for name in names})
            stack.callback(writer.close)
            writers |= dict.fromkeys(names, writer)
        return writers

    def _index(self) -> dict[str, object]:
        total = {"total_parameters": self.num_parameters, "total_size": self.nbytes}
        return {"metadata": total, "weight_map": {name: file for file, names in self.files.items() for name in names}}

    def read(self, name: str) -> Tensor:
        """Return a weight of Megatron-Core by its name, in the type in which it is written.

        Raises:
            UserError: It is not finite, or cannot be read.
        """
        empty, dtype, pieces = self._empty[name], self.dtypes[name], self._pieces[name]
        parts = [self._reader.read(piece.key, piece.offset, piece.size) for piece in pieces]
        if len(parts) == 1:
            value = parts[0].view(empty.shape).to(dtype)  # itself, if it has the type
        else:
            value = torch.empty(empty.shape, dtype=dtype)
            for piece, part in zip(pieces, parts, strict=True):
                piece.of(value).copy_(part)
        require_finite(value, f"the checkpoint's {name}")
        return value

    def _specs(self, weight: Weight) -> Iterator[tuple[str, Spec]]:
        for name, tensor in tensors(weight, self._empty[weight.megatron]):
            yield name, Spec(self.dtypes[weight.megatron], tuple(tensor.shape))

    def _dtype(self, weight: Weight, dtype: torch.dtype | None) -> torch.dtype:
        if dtype is None:
            return self._reader.tensors[self._pieces[weight.megatron][0].key].dtype
        return torch.float32 if weight.float32 else dtype

    def _check(self, checkpoint: Path) -> None:
        """Refuse a checkpoint of another model, or of a type that safetensors files are not written in here."""
        wanted = {piece.key: piece.shape for some in self._pieces.values() for piece in some}
        found = {key: stored.shape for key, stored in self._reader.tensors.items() if not key.startswith(TRAINING)}
        faults = differences(found, wanted)
        stored = {key: self._reader.tensors[key].dtype for key in sorted(wanted.keys() & found.keys())}
        faults += [f"{key} is {dtype}" for key, dtype in stored.items() if dtype not in tensor_files.DTYPES.values()]
        if faults:
            raise UserError(f"'{checkpoint}' is of another model than its settings say: {listed(faults)}")


def in_files(tensors: Mapping[str, Spec], size: int) -> dict[str, list[str]]:
    """Return which tensors are in which file, filled in their order as `save_pretrained` fills them."""
    files: list[list[str]] = [[]]
    left = size
    for name, spec in tensors.items():
        if spec.nbytes > left and files[-1]:
            files.append([])
            left = size
        files[-1].append(name)
        left -= spec.nbytes
    if len(files) == 1:
        return {"model.safetensors": files[0]}
    return {f"model-{number:05d}-of-{len(files):05d}.safetensors": names for number, names in enumerate(files, 1)}
