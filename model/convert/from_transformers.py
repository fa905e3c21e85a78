"""Reads a `transformers` folder into Megatron-Core's model, after every check that the two are one model."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from model.convert.config import from_config, read
from model.families.family import ModelSettings
from model.families.weights import Weight, fill
from model.families.weights import tensors as weight_tensors
from model.job import Job
from model.network.decoder import Decoder
from stages.errors import UserError

FREE = {"seq_length", "init_method_std", "make_vocab_size_divisible_by", "aux_loss_coefficient"}
"""Settings that a model and the one it starts from need not share: no weight depends on them."""
DTYPES = ("F32", "BF16", "F16")
"""Types that float32 holds exactly, as safetensors names them."""
DERIVED = ".rotary_emb.inv_freq"
"""End of the names of tensors that old checkpoints carry along, a function of rope_theta."""
_NAMED = 5


class OnDisk(NamedTuple):
    """A tensor on disk."""

    file: Any
    """The open file."""
    shape: tuple[int, ...]
    """Its sizes."""
    dtype: str
    """Its type as safetensors names it."""


def read_transformers(folder: Path, job: Job, decoder: Decoder) -> None:
    """Fill the unsplit model of a job with the weights of a `transformers` folder, in the model's precision.

    Raises:
        UserError: The folder is not whole, or is another model than params.yaml describes, or was trained on other
            tokens than the shards hold; each difference is named.
    """
    _check_config(folder, job)
    _check_tokenizer(folder, Path(job.shards.tokenizer))
    weights = list(job.model.weights(job.shards.vocab_size))
    own = {name: weight for name, weight in decoder.state_dict().items() if isinstance(weight, torch.Tensor)}
    assert own.keys() == {weight.megatron for weight in weights}
    with contextlib.ExitStack() as files:
        tensors = _open(folder, files)
        _check_tensors(folder, tensors, dict(_shapes(weights, own)), job.model)
        for weight in weights:
            fill(weight, own[weight.megatron], lambda name: tensors[name].file.get_tensor(name))


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


def _open(folder: Path, files: contextlib.ExitStack) -> dict[str, OnDisk]:
    """Return every tensor of the folder by name; the files stay open as long as `files`."""
    index = folder / "model.safetensors.index.json"
    names = sorted(set(read(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    tensors = {}
    for name in names:
        try:
            file = files.enter_context(safe_open(folder / name, "pt"))
        except FileNotFoundError:
            raise UserError(f"'{folder / name}' is missing; bring it back, or choose another folder") from None
        except SafetensorError as error:
            raise UserError(f"'{folder / name}' is damaged ({error}); copy it again") from None
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            part = file.get_slice(key)
            tensors[key] = OnDisk(file, tuple(part.get_shape()), part.get_dtype())
    return tensors


def _shapes(weights: list[Weight], own: dict[str, torch.Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for weight in weights:
        for name, tensor in weight_tensors(weight, own[weight.megatron]):
            yield name, tuple(tensor.shape)


def _check_tensors(
    folder: Path, tensors: dict[str, OnDisk], shapes: dict[str, tuple[int, ...]], model: ModelSettings
) -> None:
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(DERIVED)}
    if model.share_embeddings_and_output_weights:
        _drop_tied(folder, found)
    both = sorted(found.keys() & shapes.keys())
    faults = [
        *(f"{name} is missing" for name in sorted(shapes.keys() - found.keys())),
        *(f"{name} is left over" for name in sorted(found.keys() - shapes.keys())),
        *(f"{key} is {found[key].shape}, not {shapes[key]}" for key in both if found[key].shape != shapes[key]),
        *(f"{key} is {found[key].dtype}, none of {DTYPES}" for key in both if found[key].dtype not in DTYPES),
    ]
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise UserError(f"the weights in '{folder}' are not the model's: {'; '.join(faults[:_NAMED])}{more}")


def _drop_tied(folder: Path, found: dict[str, OnDisk]) -> None:
    """Take out the output layer of a model that has none of its own, but that was saved as if it had."""
    head, table = "lm_head.weight", "model.embed_tokens.weight"
    if head in found and table in found:
        if not torch.equal(found[head].file.get_tensor(head), found[table].file.get_tensor(table)):
            raise UserError(
                f"'{folder}' is to share embeddings and output weights, but its {head} is not its {table}; "
                "correct tie_word_embeddings in its config.json and model.share_embeddings_and_output_weights"
            )
        del found[head]
