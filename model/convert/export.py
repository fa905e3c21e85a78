"""A Megatron-Core checkpoint as a `transformers` folder, which must be the same model."""

import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from model.convert import unsplit
from model.convert.config import Ids, model_class, to_config
from model.convert.parity import Parity, compare, first_difference
from model.data.batches import Batch, ValidationData
from model.families.family import ModelSettings
from model.families.weights import tensors
from model.job import Job, Shards
from model.network.decoder import Decoder
from model.plan import final_model
from stages.errors import UserError
from stages.files import read_json, write_json

# torch's own checkpoint reader warns of the ShardedTensor in its own planner.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.checkpoint")


def export(job: Job, trained: Path, folder: Path, num_threads: int, sequences: int, limits: dict[str, float]) -> Parity:
    """Write a checkpoint of a job as a `transformers` model with its tokenizer, and compare the two.

    The model is the one that the last phase leaves: with the longest context and the last rotary base.

    Args:
        job: What was trained.
        trained: Weights of it, written under any layout.
        folder: Where the exported model is written.
        num_threads: CPU threads.
        sequences: Validation sequences of each domain on which both are compared.
        limits: Largest `max_abs_logit_difference` and `loss_difference`.

    Raises:
        UserError: The exported model is not the trained one; the message says where they part.
    """
    disable_progress_bar()
    model = final_model(job.model, job.pretrain)
    with unsplit.process(num_threads):
        megatron = unsplit.build(model, job.shards.vocab_size).eval()
        unsplit.load(trained, megatron)
        write_transformers(megatron, model, job.shards, folder)
        exported = model_class(model).from_pretrained(folder, dtype=torch.float32).eval()
        batches = list(_validation(job, model.seq_length, sequences))
        parity = compare(megatron, exported, batches)
        exceeded = parity.exceeded(limits)
        if exceeded:
            where = first_difference(megatron, exported, batches[0], limits["max_abs_logit_difference"])
            raise UserError(f"the exported model is not the trained one: {'; '.join(exceeded)}. They part at {where}.")
    return parity


def write_transformers(megatron: Decoder, model: ModelSettings, shards: Shards, folder: Path) -> None:
    """Write configuration, weights and tokenizer with `transformers`' own writers."""
    exported = to_model(megatron, model, shards)
    config = exported.config
    exported.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    exported.save_pretrained(folder)
    _write_tokenizer(Path(shards.tokenizer).parent, folder, model.seq_length)
    if len(AutoTokenizer.from_pretrained(folder)) != shards.vocab_size:
        raise UserError(
            f"the tokenizer in '{Path(shards.tokenizer).parent}' is not the one of the shards; run `dvc repro shards`"
        )


def to_model(megatron: Decoder, model: ModelSettings, shards: Shards) -> PreTrainedModel:
    """Return the `transformers` model with the weights of an unsplit model."""
    own = megatron.state_dict()
    weights: dict[str, torch.Tensor] = {}
    for weight in model.weights(shards.vocab_size):
        weights.update(tensors(weight, own[weight.megatron]))
    config = to_config(model, Ids(shards.vocab_size, shards.end_of_document, shards.pad))
    loaded: Any = model_class(model).from_pretrained(
        None, config=config, state_dict=weights, dtype=torch.float32, output_loading_info=True
    )
    exported: PreTrainedModel = loaded[0]  # in evaluation mode
    assert not any(loaded[1].values()), loaded[1]
    return exported


def _write_tokenizer(source: Path, folder: Path, model_max_length: int) -> None:
    """Copy the tokenizer's files; its configuration gets the context length, which it did not know."""
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, folder / file.name)
    config = folder / "tokenizer_config.json"
    write_json(config, {**read_json(config), "model_max_length": model_max_length})


def _validation(job: Job, seq_length: int, sequences: int) -> Iterator[Batch]:
    for domain in job.pretrain.domains:
        data = ValidationData(Path(job.shards.tokens) / "validation" / domain, seq_length, sequences)
        yield from data.batches(4, torch.device("cpu"))
