"""Checkpoints of a run as `transformers` folders, each of which must be the same model."""

import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from model.convert import by_layer, unsplit
from model.convert.config import model_class
from model.convert.described import Described
from model.convert.parity import Parity, compare, first_difference
from model.convert.to_transformers import Export
from model.data.batches import Batch, ValidationData
from model.families.family import ModelSettings
from model.job import Job
from model.network.decoder import Decoder
from stages.errors import UserError
from stages.files import read_json

# torch's own checkpoint reader warns of the ShardedTensor in its own planner.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.checkpoint")


@dataclass(frozen=True)
class Gate:
    """How close an exported model must be to the trained one, and on what."""

    sequences: int
    """Validation sequences of each domain on which both run."""
    limits: dict[str, float]
    """Largest `max_abs_logit_difference` and `loss_difference`."""
    by_layer: bool = False
    """Whether no more than a layer of each model is in memory; both are then read again for every batch."""


def export(
    job: Job, trained: Path, described: Described, folder: Path, dtype: torch.dtype, shard_size: int, gate: Gate
) -> Parity:
    """Write a checkpoint of a job as a `transformers` model with its tokenizer, and compare the two.

    The process has joined a group of its own (`unsplit.process`).

    Args:
        job: What was trained.
        trained: Weights of it, written under any layout.
        described: The model at that checkpoint.
        folder: Where the exported model is written.
        dtype: Type of its tensors. The trained weights are rounded to it before they are compared.
        shard_size: Largest size of a file in bytes.
        gate: What decides.

    Raises:
        UserError: The exported model is not the trained one; the message says where they part.
    """
    disable_progress_bar()
    model = described.model
    weights = Export(trained, model, described.vocab_size, dtype, shard_size)
    described.write(weights, folder)
    if len(AutoTokenizer.from_pretrained(folder)) != described.vocab_size:
        raise UserError(
            f"the tokenizer in '{described.tokenizer}' is not the one of the shards; run `dvc repro shards`"
        )
    check_tokenizer(folder)
    batches = list(_validation(job, model.seq_length, gate.sequences))
    if not gate.by_layer:
        return _judged(_rounded(trained, described, weights), load(folder, described), batches, gate.limits)
    with tempfile.TemporaryDirectory(dir=folder.parent) as offload:
        megatron = by_layer.build(weights, model, described.vocab_size)
        return _judged(megatron, load(folder, described, Path(offload)), batches, gate.limits)


def _judged(megatron: Decoder, exported: PreTrainedModel, batches: list[Batch], limits: dict[str, float]) -> Parity:
    parity = compare(megatron, exported, batches)
    exceeded = parity.exceeded(limits)
    if exceeded:
        where = first_difference(megatron, exported, batches[0], limits["max_abs_logit_difference"])
        raise UserError(f"the exported model is not the trained one: {'; '.join(exceeded)}. They part at {where}.")
    return parity


def check_tokenizer(folder: Path) -> None:
    """Refuse a tokenizer that `transformers` does not read as it is written.

    `AutoTokenizer` gives every model of type qwen2 the rules of Qwen's own tokenizer, whatever its files say.

    Raises:
        UserError: Parts of it would be others, and with them the ids of a text; which.
    """
    written = read_json(folder / "tokenizer.json")
    found = json.loads(AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str())
    differing = [part for part in ("normalizer", "pre_tokenizer", "model") if found[part] != written[part]]
    if differing:
        family = read_json(folder / "config.json")["model_type"]
        raise UserError(
            f"transformers reads the tokenizer of a {family} model by rules of its own: {', '.join(differing)} of "
            f"'{folder}/tokenizer.json' would be others, and the ids of a text not those that the model was trained "
            "on. Choose another model.family."
        )


def load(folder: Path, described: Described, offload: Path | None = None) -> PreTrainedModel:
    """Return the exported model, in float32, as everybody will read it.

    Args:
        folder: Where it is.
        described: What it is.
        offload: A folder for weights that the files have in another form than they are used in. Every weight is then
            read when its turn comes, and forgotten; None keeps all in memory.
    """
    on_disk: dict[str, Any] = {"device_map": {"": "disk"}, "offload_folder": offload} if offload else {}
    loaded: Any = model_class(described.model).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True, **on_disk
    )
    exported: PreTrainedModel = loaded[0].eval()
    unexpected = [key for key in loaded[1].pop("unexpected_keys") if not _beyond_the_last(key, described.model)]
    assert not unexpected and not any(loaded[1].values()), (unexpected, loaded[1])
    return exported


def _beyond_the_last(key: str, model: ModelSettings) -> bool:
    """Say whether a tensor is of a layer that predicts further tokens; `transformers` reads those on demand alone."""
    layer = re.match(r"model\.layers\.(\d+)\.", key)
    return layer is not None and int(layer[1]) >= model.num_layers


def _rounded(trained: Path, described: Described, weights: Export) -> Decoder:
    """Return the trained model in float32, read by Megatron-Core itself, with the weights rounded as exported."""
    megatron: Decoder = unsplit.build(described.model, described.vocab_size).eval()
    unsplit.load(trained, megatron)
    own = megatron.state_dict()
    for name, dtype in weights.dtypes.items():
        own[name].copy_(own[name].to(dtype))
    return megatron


def _validation(job: Job, seq_length: int, sequences: int) -> Iterator[Batch]:
    for domain in job.pretrain.domains:
        data = ValidationData(Path(job.shards.tokens) / "validation" / domain, seq_length, sequences)
        yield from data.batches(4, torch.device("cpu"))
