"""Reads a `transformers` folder into Megatron-Core's model, after every check that the two are one model.

Weight by weight: the memory is that of one, beside what the weights are read into, if that is no file.
"""

import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.checkpoints import checkpoint
from model.checkpoints.writer import Place
from model.convert import tensor_files, tensors_of_folder, unsplit
from model.convert.config import from_config
from model.convert.faults import listed, require_finite
from model.convert.tensor_files import DTYPES, Entry
from model.convert.unsplit import Piece
from model.families.family import ModelSettings
from model.families.weights import Weight, fill, tensors
from model.job import Job
from model.network.decoder import Decoder
from stages.errors import UserError

FREE = {
    "seq_length",
    "init_method_std",
    "make_vocab_size_divisible_by",
    "aux_loss_coefficient",
    "router_load_balancing_type",
    "router_bias_update_rate",
    "mtp_num_layers",
    "mtp_loss_scaling_factor",
}
"""Settings that a model and the one it starts from need not share: no weight that both have depends on them."""


class Import:
    """The weights of a `transformers` folder on their way to Megatron-Core; none is read before it is asked for.

    Args:
        folder: The folder.
        model: The settings of the model in it.
        vocab_size: Its ids.
        dtype: Type of the weights that are made, or None to keep what is stored. Some are float32 in every model of a
            family.

    Raises:
        UserError: A tensor is missing, left over, or of another shape or type than the model's; a file is damaged.
    """

    def __init__(self, folder: Path, model: ModelSettings, vocab_size: int, dtype: torch.dtype | None) -> None:
        self._folder = folder
        self._skeleton = unsplit.skeleton(model, vocab_size)
        self._pieces = unsplit.pieces(self._skeleton)
        own = {name: weight for name, weight in self._skeleton.state_dict().items() if name in self._pieces}
        self._weights = {weight.megatron: weight for weight in model.weights(vocab_size)}
        assert own.keys() == self._weights.keys()
        parts = [tensors(weight, own[name]) for name, weight in self._weights.items()]
        shapes = {name: tuple(part.shape) for name, part in itertools.chain.from_iterable(parts)}
        self.tensors = _of_the_model(folder, shapes, model)
        """Every tensor that is read, by name."""
        self._empty = {name: own[name].to(self._dtype(weight, dtype)) for name, weight in self._weights.items()}
        if dtype is None:
            self._require_one_type()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that are read."""
        return sum(entry.nbytes for entry in self.tensors.values())

    @property
    def written(self) -> int:
        """Bytes that are written, but for descriptions."""
        return sum(empty.nbytes for empty in self._empty.values())

    @property
    def num_parameters(self) -> int:
        """Elements of all tensors that are read."""
        return sum(math.prod(entry.shape) for entry in self.tensors.values())

    def fill(self, decoder: Decoder) -> None:
        """Fill an unsplit model, whatever the type of its weights.

        Raises:
            UserError: A tensor is not finite.
        """
        own = decoder.state_dict()
        for name, weight in self._weights.items():
            fill(weight, own[name], self._tensor)

    def write(self, path: Path, documents: dict[str, Any], progress: Callable[[int], object] = lambda _: None) -> None:
        """Write a checkpoint for any layout, whole or not at all, with the bytes of one of a model that was filled.

        Args:
            path: The folder to make.
            documents: Files to put in, by name: bytes, or what JSON is made of.
            progress: Called with the bytes that have been read since.

        Raises:
            UserError: A tensor is not finite, or the disk is full.
        """
        state = unsplit.weights(self._skeleton)
        for name, entry in state["model"].items():
            if name in self._empty:
                entry.data = self._empty[name]
                entry.dtype = entry.data.dtype

        def read(name: str) -> Tensor:
            value = self._read(name)
            progress(self._nbytes_of(name))
            return value

        checkpoint.stream(path, state, documents, _Values(self._pieces, read))

    def check(self, progress: Callable[[int], object] = lambda _: None) -> None:
        """Read every tensor, and forget it.

        Raises:
            UserError: As for `write`, but for the disk.
        """
        for name in self._weights:
            self._read(name)
            progress(self._nbytes_of(name))

    def _read(self, name: str) -> Tensor:
        value = torch.empty_like(self._empty[name], device="cpu")
        fill(self._weights[name], value, self._tensor)
        return value

    def _nbytes_of(self, name: str) -> int:
        return sum(self.tensors[part].nbytes for part in self._weights[name].parts)

    def _tensor(self, name: str) -> Tensor:
        tensor = tensor_files.read(self.tensors[name])
        require_finite(tensor, f"'{self.tensors[name].file}': {name}")
        return tensor

    def _dtype(self, weight: Weight, dtype: torch.dtype | None) -> torch.dtype:
        if dtype is None:
            return DTYPES[self.tensors[weight.parts[0]].dtype]
        return torch.float32 if weight.float32 else dtype

    def _require_one_type(self) -> None:
        """Refuse to keep types that a checkpoint cannot: it holds a weight of all layers as one tensor."""
        types: defaultdict[str, set[str]] = defaultdict(set)
        for name, weight in self._weights.items():
            types[self._pieces[name][0].key].update(self.tensors[part].dtype for part in weight.parts)
        faults = [f"{key} is {' and '.join(sorted(some))}" for key, some in types.items() if len(some) > 1]
        if faults:
            raise UserError(f"the weights in '{self._folder}' have several types: {listed(faults)}. Choose one dtype.")


class _Values:
    """The values of a checkpoint's pieces. Those of a weight follow each other, so that it is read once."""

    def __init__(self, pieces: dict[str, list[Piece]], read: Callable[[str], Tensor]) -> None:
        self._places = {(piece.key, piece.offset): (name, piece) for name, some in pieces.items() for piece in some}
        self._read = read
        self._last: tuple[str, Tensor] | None = None

    def __call__(self, place: Place) -> Tensor:
        name, piece = self._places[place]
        if self._last is None or self._last[0] != name:
            self._last = None  # two weights are not held at once
            self._last = name, self._read(name)
        return piece.of(self._last[1])


def _of_the_model(folder: Path, shapes: dict[str, tuple[int, ...]], model: ModelSettings) -> dict[str, Entry]:
    """Return those of a folder's tensors that are read, which must be the model's."""
    found = tensors_of_folder.found(folder)
    beside = [name for name in sorted(found) if model.is_beside(name)]
    if beside:
        warnings.warn(f"'{folder}' also holds what is left out: {listed(beside)}", stacklevel=2)
    own = {name: entry for name, entry in found.items() if name not in beside}
    return tensors_of_folder.checked(folder, own, shapes, model.share_embeddings_and_output_weights)


def read_transformers(folder: Path, job: Job, decoder: Decoder) -> None:
    """Fill the unsplit model of a job with the weights of a `transformers` folder, in the model's precision.

    Raises:
        UserError: The folder is not whole, or is another model than params.yaml describes, or was trained on other
            tokens than the shards hold; each difference is named.
    """
    start(folder, job).fill(decoder)


def start(folder: Path, job: Job) -> Import:
    """Return the weights of a `transformers` folder that a job starts from, in float32.

    Raises:
        UserError: As for `read_transformers`.
    """
    _check_config(folder, job)
    _check_tokenizer(folder, Path(job.shards.tokenizer))
    return Import(folder, job.model, job.shards.vocab_size, torch.float32)


def _check_config(folder: Path, job: Job) -> None:
    theirs, config = from_config(folder)
    if theirs.family != job.model.family:
        raise UserError(
            f"'{folder}' is a {theirs.architecture}, but model.family = {job.model.family}; choose another "
            f"pretrain.start.path, or set model.family to {theirs.family}"
        )
    faults = list(_differences("model", _settings(job.model), _settings(theirs)))
    if config.vocab_size != job.shards.vocab_size:
        faults.append(f"the shards' vocabulary has {job.shards.vocab_size} ids, its vocab_size is {config.vocab_size}")
    if faults:
        raise UserError(f"'{folder}' is another model: {'; '.join(faults)}. Set params.yaml to it, or choose another.")


def _settings(model: ModelSettings) -> dict[str, Any]:
    return {**model.model_dump(), "kv_channels": model.head_dim}


def _differences(where: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Iterator[str]:
    for name in sorted((ours.keys() | theirs.keys()) - FREE):
        own, other = ours.get(name), theirs.get(name)
        if isinstance(own, dict) and isinstance(other, dict):
            yield from _differences(f"{where}.{name}", own, other)
        elif own != other:
            yield f"{where}.{name} is {own}, there it is {other}"


def _check_tokenizer(folder: Path, tokenizer: Path) -> None:
    """Refuse other ids: the model would be trained on tokens that mean something else to it."""
    file = folder / "tokenizer.json"
    if not file.exists():
        return
    theirs, ours = (Tokenizer.from_file(str(path)).get_vocab() for path in (file, tokenizer))
    differing = sorted(token for token in theirs.keys() | ours.keys() if theirs.get(token) != ours.get(token))
    if differing:
        token = differing[0]
        raise UserError(
            f"'{file}' is not the tokenizer of the shards: {len(differing)} tokens differ, such as '{token}', "
            f"{theirs.get(token)} there and {ours.get(token)} here. Set tokenizer.path to that file and run "
            "`dvc repro shards`."
        )
