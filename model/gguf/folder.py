"""A `transformers` folder as it is on disk: its configuration, and its tensors one at a time."""

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.core_model_loading import revert_weight_conversion

from model.convert import tensor_files, tensors_of_folder
from model.convert.config import read as read_json
from model.convert.tensor_files import Entry
from stages.errors import UserError


@dataclass(frozen=True)
class Folder:
    """A model that was checked to be whole."""

    path: Path
    """Where it is."""
    architecture: str
    """Its class in `transformers`."""
    config: PreTrainedConfig
    """Its configuration, with the defaults of the class."""
    entries: Mapping[str, Entry]
    """The class' weights by their names on disk; an output layer that is the table of embeddings is none."""
    extra_layers: bool
    """There are layers for predicting further tokens, which the class does not have."""

    def dtype(self) -> str:
        """Return the type that holds every tensor exactly, as safetensors names it."""
        dtypes = {entry.dtype for entry in self.entries.values()}
        return dtypes.pop() if len(dtypes) == 1 else "F32"

    def tensor(self, name: str) -> Tensor:
        """Return a tensor in its own type."""
        return tensor_files.read(self.entries[name])


def read(path: Path, known: Collection[str]) -> Folder:
    """Return a folder, which must hold all weights of its class and no others.

    Args:
        path: The folder, or one that has it as `model/`.
        known: Classes that can be read.

    Raises:
        UserError: A file is missing or damaged, the class is not known, or the weights are not the class'.
    """
    path = path / "model" if (path / "model" / "config.json").exists() else path
    architecture = _architecture(path, read_json(path / "config.json"), known)
    config = _config(path)
    found = tensors_of_folder.found(path)
    extra = {name for name in found if _is_extra(name, config)}
    shapes = _shapes(config)
    own = {name: entry for name, entry in found.items() if name not in extra}
    own = tensors_of_folder.checked(path, own, shapes, tied(config))
    return Folder(path, architecture, config, {name: own[name] for name in shapes}, bool(extra))


def tied(config: PreTrainedConfig) -> bool:
    """Return whether the output layer is the table of embeddings."""
    return bool(config.tie_word_embeddings)


def _architecture(path: Path, raw: Any, known: Collection[str]) -> str:
    architectures = raw.get("architectures") or []
    if "quantization_config" in raw:
        raise UserError(f"'{path}' holds quantised weights; choose a checkpoint in float32, bfloat16 or float16")
    if len(architectures) != 1 or architectures[0] not in known:
        raise UserError(f"'{path}' is a {architectures}; GGUF is written for none but {', '.join(known)}")
    return str(architectures[0])


def _config(path: Path) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, local_files_only=True)
    except (StrictDataclassError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"'{path}/config.json' cannot be read by transformers: {why}") from None
    return config


def _shapes(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Return the sizes of the class' weights by name as `save_pretrained` writes them."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config)
    state = revert_weight_conversion(model, model.state_dict())
    shared = ("lm_head.weight", "embed_out.weight") if tied(config) else ()
    return {name: tuple(weight.shape) for name, weight in state.items() if name not in shared}


def _is_extra(name: str, config: PreTrainedConfig) -> bool:
    """Return whether a tensor is in a layer after the last, where DeepSeek's multi-token prediction is saved."""
    layer = re.match(r"model\.layers\.(\d+)\.", name)
    return (
        bool(getattr(config, "num_mtp_layers", 0)) and layer is not None and int(layer[1]) >= config.num_hidden_layers
    )
