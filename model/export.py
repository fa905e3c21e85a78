"""A Megatron-Core checkpoint as a `transformers` folder, and the gate that compares the two."""

import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, LlamaForCausalLM

from model import checkpoint, parallel
from model.build import Decoder, build_model
from model.data import Batch, ValidationData
from model.job import Job
from model.llama import llama_config, to_llama
from model.settings import LayoutSettings
from stages.errors import UserError
from stages.files import read_json, write_json

# torch's own checkpoint reader warns of the ShardedTensor in its own planner.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.checkpoint")


@dataclass(frozen=True)
class Parity:
    """How far the exported model is from the trained one, in float32 on validation text."""

    tokens: int
    """Tokens compared."""
    max_abs_logit: float
    """Largest logit, for scale."""
    max_abs_logit_difference: float
    """Largest difference of any logit."""
    megatron_loss: float
    """Mean loss of the trained model, nats per token."""
    transformers_loss: float
    """Mean loss of the exported model, nats per token."""

    @property
    def loss_difference(self) -> float:
        """Absolute difference of the losses."""
        return abs(self.megatron_loss - self.transformers_loss)

    def as_dict(self) -> dict[str, float]:
        """Return all values by name."""
        return {**asdict(self), "loss_difference": self.loss_difference}


def export(job: Job, trained: Path, folder: Path, num_threads: int, sequences: int, limits: dict[str, float]) -> Parity:
    """Write the checkpoint of a job as a `transformers` model with its tokenizer, and compare the two.

    Args:
        job: What was trained.
        trained: Its checkpoint, of any layout.
        folder: Where the exported model is written.
        num_threads: CPU threads.
        sequences: Validation sequences of each domain on which both are compared.
        limits: Largest `max_abs_logit_difference` and `loss_difference`.

    Raises:
        UserError: The exported model is not the trained one; the message says where they part.
    """
    one = LayoutSettings()
    with parallel.processes(one, "cpu", num_threads, seed=0):
        megatron = build_model(job.model, one, job.shards.vocab_size).eval()
        checkpoint.load(trained, megatron)
        write_llama(megatron, job, folder)
        exported = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        batches = [batch for data in _validation(job, sequences) for batch in data.batches(4, torch.device("cpu"))]
        parity = compare(megatron, exported, batches)
        values = parity.as_dict()
        exceeded = [name for name, limit in limits.items() if not values[name] <= limit]
        if exceeded:
            where = first_difference(megatron, exported, batches[0], limits["max_abs_logit_difference"])
            raise UserError(
                "the exported model is not the trained one: "
                + "; ".join(f"{name} is {values[name]:.3g}, the limit is {limits[name]:.3g}" for name in exceeded)
                + f". They part at {where}."
            )
    return parity


def write_llama(megatron: Decoder, job: Job, folder: Path) -> None:
    """Write configuration, weights and tokenizer with `transformers`' own writers."""
    shards = job.shards
    config = llama_config(job.model, shards.vocab_size, shards.end_of_document, shards.pad)
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    weights = dict(to_llama(megatron.state_dict(), job.model, shards.vocab_size))
    if config.tie_word_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    llama.load_state_dict({name: weight.contiguous() for name, weight in weights.items()}, strict=True, assign=True)
    llama.tie_weights()
    llama.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    llama.save_pretrained(folder)
    _write_tokenizer(Path(shards.tokenizer).parent, folder, job.model.seq_length)
    if len(AutoTokenizer.from_pretrained(folder)) != shards.vocab_size:
        raise UserError(
            f"the tokenizer in '{Path(shards.tokenizer).parent}' is not the one of the shards; run `dvc repro shards`"
        )


def _write_tokenizer(source: Path, folder: Path, model_max_length: int) -> None:
    """Copy the tokenizer's files; its configuration gets the context length, which it did not know."""
    for file in sorted(source.iterdir()):
        shutil.copyfile(file, folder / file.name)
    config = folder / "tokenizer_config.json"
    write_json(config, {**read_json(config), "model_max_length": model_max_length})


def _validation(job: Job, sequences: int) -> list[ValidationData]:
    folder = Path(job.shards.tokens) / "validation"
    return [ValidationData(folder / domain, job.model.seq_length, sequences) for domain in sorted(job.pretrain.blend)]


@torch.no_grad()
def compare(megatron: Decoder, llama: LlamaForCausalLM, batches: list[Batch]) -> Parity:
    """Return the distance of two models over batches of tokens, labels and positions `[b, s]`."""
    vocab_size = llama.config.vocab_size
    largest = difference = 0.0
    nats = {"megatron": 0.0, "transformers": 0.0}
    tokens = 0
    for inputs, labels, positions in batches:
        ours = megatron(inputs, positions, None)[..., :vocab_size]
        theirs = llama(inputs).logits
        largest = max(largest, ours.abs().max().item())
        difference = max(difference, (ours - theirs).abs().max().item())
        nats["megatron"] += megatron(inputs, positions, None, labels=labels).double().sum().item()
        nats["transformers"] += _loss_sum(theirs, labels)
        tokens += labels.numel()
    return Parity(tokens, largest, difference, nats["megatron"] / tokens, nats["transformers"] / tokens)


def _loss_sum(logits: torch.Tensor, labels: torch.Tensor) -> float:
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return losses.double().sum().item()


@torch.no_grad()
def first_difference(megatron: Decoder, llama: LlamaForCausalLM, batch: Batch, limit: float) -> str:
    """Return the first point of the forward pass where the models differ by more than `limit`, with the difference."""
    inputs, _, positions = batch
    ours: dict[str, torch.Tensor] = {}
    theirs: dict[str, torch.Tensor] = {}
    _record(ours, {"the embedding": megatron.embedding, **_layers(megatron.decoder.layers)}, sequence_first=True)
    _record(theirs, {"the embedding": llama.model.embed_tokens, **_layers(llama.model.layers)}, sequence_first=False)
    megatron(inputs, positions, None)
    llama(inputs)
    for name, value in ours.items():
        difference = (value - theirs[name]).abs().max().item()
        if not difference <= limit:
            return f"{name} (difference {difference:.3g})"
    return "the final norm or the output projection"


def _layers(layers: Any) -> dict[str, torch.nn.Module]:
    return {f"layer {index}": layer for index, layer in enumerate(layers)}


def _record(into: dict[str, torch.Tensor], modules: dict[str, torch.nn.Module], sequence_first: bool) -> None:
    """Have each module note its output, as `[b, s, h]`."""

    def note(name: str) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple) else output
            into[name] = value.transpose(0, 1) if sequence_first else value

        return hook

    for name, module in modules.items():
        module.register_forward_hook(note(name))
