"""Reads a `transformers` folder into Megatron-Core's model, after every check that the two are one model."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from transformers import PreTrainedConfig

from model.convert.architectures import architecture
from model.convert.weight_map import Weight, to_megatron
from model.job import Job
from model.network.decoder import Decoder
from model.settings import ModelSettings
from stages.errors import UserError
from stages.files import read_json

SETTINGS = {
    "num_hidden_layers": "model.num_layers",
    "hidden_size": "model.hidden_size",
    "intermediate_size": "model.ffn_hidden_size",
    "num_attention_heads": "model.num_attention_heads",
    "num_key_value_heads": "model.num_query_groups",
    "head_dim": "model.hidden_size / model.num_attention_heads",
    "rms_norm_eps": "model.layernorm_epsilon",
    "rope_theta": "model.rotary_base",
    "tie_word_embeddings": "model.share_embeddings_and_output_weights",
    "num_local_experts": "model.moe.num_experts",
    "num_experts_per_tok": "model.moe.router_topk",
    "vocab_size": "the shards' vocabulary",
}
"""What a configuration and params.yaml must agree on. The longest context is not in it: no weight depends on it."""
FIXED = ("hidden_act", "attention_bias", "mlp_bias", "rope_type", "sliding_window")
"""What a configuration says of which the model has one form alone."""
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
    weights = list(architecture(job.model).weights(job.model, job.shards.vocab_size))
    own = {name: weight for name, weight in decoder.state_dict().items() if isinstance(weight, torch.Tensor)}
    assert own.keys() == {weight.megatron for weight in weights}
    with contextlib.ExitStack() as files:
        tensors = _open(folder, files)
        _check_tensors(folder, tensors, dict(_shapes(weights, own)), job.model)
        for name, value in to_megatron(weights, lambda name: tensors[name].file.get_tensor(name)):
            own[name].copy_(value)


def _check_config(folder: Path, job: Job) -> None:
    config, wanted, shards = _read(folder / "config.json"), architecture(job.model), job.shards
    _check_architecture(folder, config, wanted.model_class.__name__)
    ours = _facts(wanted.config(job.model, shards.vocab_size, shards.end_of_document, shards.pad))
    theirs = _facts(wanted.model_class.config_class.from_dict(config))  # type: ignore[union-attr]  # each has one
    differing = [key for key in ours if ours[key] != theirs[key]]
    faults = [
        f"{SETTINGS[key]} is {ours[key]}, its {key} is {theirs[key]}"
        if key in SETTINGS
        else f"its {key} is {theirs[key]}, which is not supported"
        for key in differing
    ]
    if faults:
        raise UserError(f"'{folder}' is another model: {'; '.join(faults)}. Set params.yaml to it, or choose another.")


def _check_architecture(folder: Path, config: Any, name: str) -> None:
    if config.get("architectures") != [name]:
        raise UserError(
            f"'{folder}/config.json' has architectures = {config.get('architectures')}, but the model of params.yaml "
            f"is a {name}; choose another pretrain.start.path, or set model.moe for a MixtralForCausalLM alone"
        )
    if "quantization_config" in config:
        raise UserError(f"'{folder}' holds quantised weights; choose a checkpoint in float32, bfloat16 or float16")


def _facts(config: PreTrainedConfig) -> dict[str, Any]:
    """Return what is compared, null where an architecture has no such thing."""
    facts = {key: getattr(config, key, None) for key in (*SETTINGS, *FIXED)}
    head = config.hidden_size // config.num_attention_heads
    return {**facts, "head_dim": facts["head_dim"] or head, **config.rope_parameters}


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
    names = sorted(set(_read(index)["weight_map"].values())) if index.exists() else ["model.safetensors"]
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


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except FileNotFoundError:
        raise UserError(f"'{file}' is missing; bring it back, or choose another folder") from None
    except ValueError as error:
        raise UserError(f"'{file}' is damaged ({error}); copy it again") from None


def _shapes(weights: list[Weight], own: dict[str, torch.Tensor]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for weight in weights:
        parts = weight.split(own[weight.megatron])
        yield from zip(weight.parts, (tuple(part.shape) for part in parts), strict=True)


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
