"""The tensors of a `transformers` folder, in one safetensors file or several, checked against a model's shapes."""

from collections.abc import Mapping
from pathlib import Path

import torch

from model.convert import tensor_files
from model.convert.config import read
from model.convert.faults import differences, listed
from model.convert.tensor_files import DTYPES, Entry
from stages.errors import UserError

INDEX = "model.safetensors.index.json"
"""Which file of several has which tensor."""
DERIVED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
"""Ends of the names of tensors that old checkpoints carry along: functions of the configuration."""
_TIED = (("lm_head.weight", "model.embed_tokens.weight"), ("embed_out.weight", "gpt_neox.embed_in.weight"))


def found(folder: Path) -> dict[str, Entry]:
    """Return every tensor of a folder by name, but those that are derived.

    Raises:
        UserError: A file is missing, damaged or of another model.
    """
    entries: dict[str, Entry] = {}
    index = folder / INDEX
    for file in _files(index) if index.exists() else ["model.safetensors"]:
        there = tensor_files.entries(folder / file)
        twice = listed(f"{name} is in '{entries[name].file}' too" for name in entries.keys() & there.keys())
        if twice:
            raise UserError(f"'{folder / file}' is of another model than the files beside it: {twice}; copy them again")
        entries |= there
    return {name: entry for name, entry in entries.items() if not name.endswith(DERIVED)}


def checked(
    folder: Path, entries: Mapping[str, Entry], shapes: Mapping[str, tuple[int, ...]], is_tied: bool
) -> dict[str, Entry]:
    """Return a folder's tensors, which must be exactly those of a model, in types that float32 holds.

    Args:
        folder: Where they are.
        entries: The tensors.
        shapes: Those of the model by name.
        is_tied: Whether the output layer is the table of embeddings; the folder may hold a copy of it.

    Raises:
        UserError: Tensors are missing, left over, of another shape or type, or the copy is another tensor.
    """
    own = _without_copy(folder, entries, shapes) if is_tied else dict(entries)
    faults = differences({name: entry.shape for name, entry in own.items()}, shapes)
    types = {name: own[name].dtype for name in sorted(own) if own[name].dtype not in DTYPES}
    faults += [f"{name} is {dtype}, none of {', '.join(DTYPES)}" for name, dtype in types.items()]
    if faults:
        raise UserError(f"the weights in '{folder}' are not the model's: {listed(faults)}")
    return own


def _files(index: Path) -> list[str]:
    try:
        return sorted(set(read(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"'{index}' is damaged (it has no weight_map); copy it again") from None


def _without_copy(
    folder: Path, entries: Mapping[str, Entry], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Entry]:
    """Leave out the output layer of a model that has none of its own, but that was saved as if it had."""
    own = dict(entries)
    for head, table in _TIED:
        if head in own and head not in shapes and table in own:
            if not torch.equal(tensor_files.read(own[head]), tensor_files.read(own[table])):
                raise UserError(
                    f"'{folder}' is to share embeddings and output weights, but its {head} is not its {table}; "
                    "correct tie_word_embeddings in its config.json and model.share_embeddings_and_output_weights"
                )
            del own[head]
    return own
