"""A `transformers` folder as it is on disk: its configuration, and its tensors one at a time."""

import contextlib
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion

from stages.errors import UserError
from stages.files import read_json

DTYPES = ("F32", "BF16", "F16")
"""Types that float32 holds exactly, as safetensors names them."""
DERIVED = (".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
"""Ends of the names of tensors that old checkpoints carry along and no class has as a weight."""
_NAMED = 5


@dataclass(frozen=True)
class Folder:
    """A model that was checked to be whole; its files are open."""

    path: Path
    """Where it is."""
    architecture: str
    """Its class in `transformers`."""
    config: PreTrainedConfig
    """Its configuration, with the defaults of the class."""
    shapes: Mapping[str, tuple[int, ...]]
    """Sizes of the class' weights by their names on disk; an output layer shared with the table is none."""
    files: Mapping[str, Any]
    """The open file of each tensor on disk."""
    extra_layers: bool
    """There are layers for predicting further tokens, which the class does not have."""

    def dtype(self) -> str:
        """Return the type that holds every tensor exactly, one of `DTYPES`."""
        dtypes = {self.files[name].get_slice(name).get_dtype() for name in self.shapes}
        return str(dtypes.pop()) if len(dtypes) == 1 else "F32"

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in float32.

        Raises:
            UserError: It has a value that is not finite.
        """
        tensor: Tensor = self.files[name].get_tensor(name).float()
        if not tensor.isfinite().all():
            number = int((~tensor.isfinite()).sum())
            raise UserError(
                f"{name} in '{self.path}' has {number} values that are NaN or infinite; choose an earlier checkpoint"
            )
        return tensor


@contextlib.contextmanager
def opened(path: Path, known: Mapping[str, Any]) -> Iterator[Folder]:
    """Open a folder and check that it holds all weights of its class and no others.

    Args:
        path: The folder, or one that has it as `model/`.
        known: Classes that can be read.

    Raises:
        UserError: A file is missing or damaged, the class is not known, or the weights are not the class'.
    """
    path = path / "model" if (path / "model" / "config.json").exists() else path
    raw = _json(path / "config.json")
    architecture = _architecture(path, raw, known)
    config = AutoConfig.from_pretrained(path)
    with contextlib.ExitStack() as stack:
        files = _open(path, stack)
        shapes = _shapes(config)
        extra = {name for name in files if _is_extra(name, config)}
        _check(path, config, {name: file for name, file in files.items() if name not in extra}, shapes)
        yield Folder(path, architecture, config, shapes, files, bool(extra))


def _architecture(path: Path, raw: Any, known: Mapping[str, Any]) -> str:
    architectures = raw.get("architectures") or []
    if "quantization_config" in raw:
        raise UserError(f"'{path}' holds quantised weights; choose a checkpoint in float32, bfloat16 or float16")
    if len(architectures) != 1 or architectures[0] not in known:
        raise UserError(
            f"'{path}' is a {architectures}, which is none of those that GGUF is written for: {list(known)}"
        )
    return str(architectures[0])


def _shapes(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the class' weights by name as `save_pretrained` writes them."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config)
    state = revert_weight_conversion(model, model.state_dict())
    output = output_name(config)
    return {name: tuple(weight.shape) for name, weight in state.items() if name != output or not tied(config)}


def _is_extra(name: str, config: PreTrainedConfig) -> bool:
    """Return whether a tensor is in a layer after the last, where DeepSeek's multi-token prediction is saved."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    return (
        bool(getattr(config, "num_mtp_layers", 0)) and layer is not None and int(layer[1]) >= config.num_hidden_layers
    )


def tied(config: PreTrainedConfig) -> bool:
    """Return whether the output layer is the table of embeddings."""
    return bool(config.tie_word_embeddings)


def output_name(config: PreTrainedConfig) -> str:
    """Return the name on disk of the output layer."""
    return "embed_out.weight" if config.model_type == "gpt_neox" else "lm_head.weight"


def _open(folder: Path, stack: contextlib.ExitStack) -> dict[str, Any]:
    index = folder / "model.safetensors.index.json"
    names = sorted(set(_json(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
    files = {}
    for name in names:
        try:
            file = stack.enter_context(safe_open(folder / name, "pt"))
        except FileNotFoundError:
            raise UserError(f"'{folder / name}' is missing; bring it back, or choose another folder") from None
        except SafetensorError as error:
            raise UserError(f"'{folder / name}' is damaged ({error}); copy it again") from None
        files.update(dict.fromkeys(file.keys(), file))
    return files


def _json(file: Path) -> Any:
    try:
        return read_json(file)
    except FileNotFoundError:
        raise UserError(f"'{file}' is missing; bring it back, or choose another folder") from None
    except ValueError as error:
        raise UserError(f"'{file}' is damaged ({error}); copy it again") from None


def _check(folder: Path, config: PreTrainedConfig, files: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    found = {name: file for name, file in files.items() if not name.endswith(DERIVED)}
    if tied(config):
        _drop_copy(folder, output_name(config), found)
    both = sorted(found.keys() & shapes.keys())
    slices = {name: found[name].get_slice(name) for name in both}
    sizes = {name: tuple(part.get_shape()) for name, part in slices.items()}
    dtypes = {name: part.get_dtype() for name, part in slices.items()}
    faults = [
        *(f"{name} is missing" for name in sorted(shapes.keys() - found.keys())),
        *(f"{name} is left over" for name in sorted(found.keys() - shapes.keys())),
        *(f"{name} is {sizes[name]}, not {shapes[name]}" for name in both if sizes[name] != shapes[name]),
        *(f"{name} is {dtypes[name]}, none of {DTYPES}" for name in both if dtypes[name] not in DTYPES),
    ]
    if faults:
        more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        raise UserError(
            f"the weights in '{folder}' are not those of its config.json: {'; '.join(faults[:_NAMED])}{more}"
        )


def _drop_copy(folder: Path, head: str, found: dict[str, Any]) -> None:
    """Take out the output layer of a model that has none of its own, but that was saved as if it had."""
    table = next((name for name in found if name.endswith(("embed_tokens.weight", "embed_in.weight"))), None)
    if head in found and table is not None:
        if not torch.equal(found[head].get_tensor(head), found[table].get_tensor(table)):
            raise UserError(f"'{folder}' says tie_word_embeddings, but its {head} is not its {table}; correct one")
        del found[head]
