"""Small real models with real gradients under any layout, for the tests of what steps them."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from model import parallel
from model.data.batches import Batch
from model.families.family import ModelSettings
from model.families.llama import Llama
from model.job import Job
from model.layout import LayoutSettings
from model.optim.parts import held
from model.trainer import Gradients, Trainer

LLAMA = Llama(
    num_layers=2, hidden_size=32, ffn_hidden_size=48, num_attention_heads=4, num_query_groups=2, seq_length=16
)
TIED = LLAMA.model_copy(update={"num_layers": 4, "share_embeddings_and_output_weights": True})
MIXTRAL = ModelSettings.model_validate(
    {**LLAMA.model_dump(exclude_defaults=True), "family": "mixtral", "moe": {"num_experts": 4, "router_topk": 2}}
)
VOCAB_SIZE = 101
BATCH = 4


def job(
    layout: LayoutSettings | None = None, model: ModelSettings = LLAMA, optimizer: Any = None, **settings: Any
) -> Job:
    """Return a job with micro batches of one sequence."""
    pretrain = {
        "device": "cpu",
        "precision": "float32",
        "num_threads": 1,
        "layout": layout or LayoutSettings(),
        "weight_seed": 3,
        "data_seed": 5,
        "phases": {"main": {"tokens": 1024, "blend": {"code": 1.0}, "global_batch_size": BATCH}},
        "micro_batch_size": 1,
        "schedule": {"style": "constant", "learning_rate": 1e-2, "min_learning_rate": 1e-2, "warmup_steps": 0},
        "optimizer": {"weight_decay": 0.1, **(optimizer or {})},
        "eval_interval": 1,
        "eval_sequences": 1,
        "checkpoint_interval": 1,
        **settings,
    }
    files = {"digest": "", "tokens": "", "tokenizer": "", "tokenizer_sha256": ""}
    shards = {**files, "vocab_size": VOCAB_SIZE, "end_of_document": 0, "pad": 1}
    return Job.model_validate({"model": model, "pretrain": pretrain, "shards": shards, "versions": {}})


@contextlib.contextmanager
def training(job: Job) -> Iterator[Trainer]:
    """Yield a trainer of this process."""
    with parallel.processes(job.pretrain.layout, "cpu", num_threads=1, seed=job.pretrain.weight_seed) as device:
        yield Trainer(job, device)


def find_gradient(trainer: Trainer, job: Job, step: int) -> Gradients:
    """Compute the gradient of a step on text that depends on the step alone."""
    text = torch.randint(0, VOCAB_SIZE, (BATCH, LLAMA.seq_length + 1), generator=torch.Generator().manual_seed(step))
    own = text.chunk(parallel.data_parallel_size())[parallel.data_parallel_rank()]
    positions = torch.arange(LLAMA.seq_length)[None]
    batches = [Batch(x[None, :-1], x[None, 1:], positions, None) for x in own]
    return trainer.gradients(batches, job.plan.at(step))


def train(trainer: Trainer, job: Job, steps: range, rate: float = 1e-2) -> None:
    for step in steps:
        find_gradient(trainer, job, step)
        trainer.update(rate)


def weights(trainer: Trainer) -> dict[str, Any]:
    """Return this rank's weights by the name that they have in an unsplit model."""
    found = {}
    for chunk in trainer.modules:
        first = chunk.decoder.layers[0].layer_number - 1
        for name, weight in chunk.named_parameters():
            is_copy = getattr(weight, "shared", False)  # of a tied embedding, on the last pipeline stage
            found["embedding.word_embeddings.weight" if is_copy else _moved(name, first)] = weight
    return found


def _moved(name: str, layers: int) -> str:
    return re.sub(r"(?<=layers\.)\d+", lambda layer: str(layers + int(layer[0])), name)


def stepped(trainer: Trainer) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Return by name what the optimizer steps of each weight, and the state that it has for it."""
    names = {weight: name for name, weight in weights(trainer).items()}
    return {
        names[weight]: (own, chained.optimizer.state[own])
        for chained in trainer.optimizer.chained_optimizers
        for weight, own in held(chained)
    }


def states(trainer: Trainer) -> dict[str, Tensor]:
    """Return each weight, what the optimizer steps of it and its states, all without tensor parallelism, by name."""
    found = {f"{name} parameter": unsplit(trainer, name, weight) for name, weight in weights(trainer).items()}
    for name, (own, state) in stepped(trainer).items():
        for key, value in {"stepped": own, **state}.items():
            found[f"{name} {key}"] = unsplit(trainer, name, value)
    return found


def unsplit(trainer: Trainer, name: str, shard: Tensor) -> Tensor:
    """Return a tensor that has the shape of a weight without tensor parallelism; every rank calls this."""
    group, weight = parallel.tensor_parallel_group(), weights(trainer)[name]
    is_expert = not getattr(weight, "allreduce", True)
    if is_expert or group.size() == 1 or not getattr(weight, "tensor_model_parallel", False):
        return shard.detach().clone()
    shards = [torch.empty_like(shard) for _ in range(group.size())]
    dist.all_gather(shards, shard.detach().contiguous(), group=group)
    if "linear_fc1" in name and trainer.modules[0].config.gated_linear_unit:
        return torch.cat([half for halves in zip(*(x.chunk(2) for x in shards), strict=True) for half in halves])
    return torch.cat(shards, dim=weight.partition_dim)
