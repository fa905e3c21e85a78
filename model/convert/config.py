"""The configuration of `transformers` that describes a model, and back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from pydantic import ValidationError
from transformers import PreTrainedConfig, PreTrainedModel

from model.families.family import ModelSettings, by_name
from stages.errors import UserError
from stages.files import read_json


class Ids(NamedTuple):
    """What a configuration says of the tokens."""

    vocab_size: int
    """Ids of the tokenizer."""
    end_of_document: int
    """The id that opens and ends a text."""
    pad: int
    """The padding id."""


OTHER = {
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "hidden_dropout",
    "output_router_logits",
    "pad_token_id",
    "pretraining_tp",
    "router_jitter_noise",
    "transformers_version",
    "use_cache",
    "vocab_size",
}
"""What a configuration says that is not of the model: of its tokens, of training, of how it is run."""


def model_class(model: ModelSettings) -> type[PreTrainedModel]:
    """Return the class of `transformers` that is the same model."""
    chosen: type[PreTrainedModel] = getattr(transformers, model.architecture)
    return chosen


def to_config(model: ModelSettings, ids: Ids, dtype: torch.dtype = torch.float32) -> PreTrainedConfig:
    """Return the configuration of a model."""
    config: Any = model_class(model).config_class
    made: PreTrainedConfig = config(
        **model.config(),
        vocab_size=ids.vocab_size,
        bos_token_id=ids.end_of_document,
        eos_token_id=ids.end_of_document,
        pad_token_id=ids.pad,
        architectures=[model.architecture],
        dtype=dtype,
    )
    return made


def from_config(folder: Path) -> tuple[ModelSettings, PreTrainedConfig]:
    """Return the settings of the model in a `transformers` folder, and its configuration.

    Raises:
        UserError: There is no whole configuration, the architecture is not known, or the family has no way to say
            something of it: which, and what would be lost.
    """
    raw = read(folder / "config.json")
    family = _family(folder, raw)
    config = _parsed(folder, getattr(transformers, family.architecture).config_class, raw)
    try:
        model = family.model_validate_json(json.dumps(family.from_config(config.to_dict())))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise UserError(f"'{folder}/config.json' cannot be read as a {family.architecture}: {faults}") from None
    lost = list(_lost(model, config))
    if lost:
        raise UserError(
            f"'{folder}/config.json' has what the family {model.family} does not support, and what would be lost: "
            f"{'; '.join(lost)}. Choose another model, or teach model/families/{model.family}.py."
        )
    return model, config


def _parsed(folder: Path, kind: Any, raw: Any) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = kind.from_dict(raw)
    except (StrictDataclassError, ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"'{folder}/config.json' cannot be read by transformers: {why}. Correct it.") from None
    return config


def _family(folder: Path, raw: Any) -> type[ModelSettings]:
    known = {family.architecture: family for family in by_name().values()}
    names = raw.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or names[0] not in known:
        raise UserError(f"'{folder}/config.json' has architectures = {names}; known are {sorted(known)}")
    if "quantization_config" in raw:
        raise UserError(f"'{folder}' holds quantised weights; choose a checkpoint in float32, bfloat16 or float16")
    return known[names[0]]


def _lost(model: ModelSettings, config: PreTrainedConfig) -> Iterator[str]:
    """Yield what a configuration says that the one of its settings does not."""
    theirs, ours = _said(config), _said(to_config(model, Ids(config.vocab_size, 0, 0)))
    understood = type(config)().to_dict().keys() | ours.keys()
    for key in sorted(understood - OTHER):
        if _plain(theirs.get(key)) != _plain(ours.get(key)):
            yield f"{key} = {json.dumps(theirs.get(key))}, which would be {json.dumps(ours.get(key))}"


def _said(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what a configuration says; the width of a head, which some leave out, too."""
    said = config.to_dict()
    return {**said, "head_dim": said.get("head_dim") or said["hidden_size"] // said["num_attention_heads"]}


def _plain(value: Any) -> Any:
    """Return a value without what says nothing: keys of a mapping that are null, and the old name of rope_type."""
    if not isinstance(value, dict):
        return value
    return {
        key: item for key, item in value.items() if item is not None and (key != "type" or "rope_type" not in value)
    }


def read(file: Path) -> Any:
    """Return a JSON file of a `transformers` folder.

    Raises:
        UserError: It is missing or damaged.
    """
    try:
        return read_json(file)
    except FileNotFoundError:
        raise UserError(f"'{file}' is missing; bring it back, or choose another folder") from None
    except ValueError as error:
        raise UserError(f"'{file}' is damaged ({error}); copy it again") from None
