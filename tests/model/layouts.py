"""One small model trained under any layout: what the tests of layouts run on every rank."""

import argparse
import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model import parallel, selftest
from model.checkpoints.checkpoint import load, save
from model.data.batches import Batch
from model.job import Job
from model.layout import LayoutSettings
from model.plan import Step
from model.trainer import Trainer

SEQ_LENGTH = 32
BATCH = 4
STEPS = 30
MOE = {"num_experts": 4, "router_topk": 2}
TEXT = torch.tensor(list(Path(argparse.__file__).read_bytes()))
"""A module's source; its bytes are the tokens."""


LLAMA = {"family": "llama"}
OLMO = {
    **{"family": "olmo3", "num_query_groups": 2},
    **{"sliding_window": 9, "layer_types": ["sliding_attention", "full_attention"]},
    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8},
}
NEOX = {"family": "gpt_neox"}
DEEPSEEK: dict[str, Any] = {
    **{"family": "deepseek_v3", "q_lora_rank": 16, "kv_lora_rank": 8, "mtp_num_layers": 1},
    **{"qk_head_dim": 8, "qk_pos_emb_head_dim": 4, "v_head_dim": 6},
    "moe": {
        **{"num_experts": 4, "router_topk": 2, "ffn_hidden_size": 16, "num_shared_experts": 2, "num_dense_layers": 1},
        **{"router_num_groups": 2, "router_group_topk": 1, "aux_loss_coefficient": 0.01},
    },
}


def job(
    layout: LayoutSettings | None = None,
    layers: int = 2,
    moe: bool = False,
    tied: bool = False,
    family: Mapping[str, Any] = LLAMA,
    **pretrain: Any,
) -> Job:
    """Return a job of `STEPS` steps, and some to go on with."""
    layout = layout or LayoutSettings()
    model = {
        "num_layers": layers,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "num_attention_heads": 4,
        "num_query_groups": 4,
        "seq_length": SEQ_LENGTH,
        "share_embeddings_and_output_weights": tied,
        **({"family": "mixtral", "moe": MOE} if moe else family),
    }
    settings = {
        "device": "cpu",
        "precision": "float32",
        "num_threads": 1,
        "layout": layout,
        "weight_seed": 3,
        "data_seed": 5,
        "phases": {
            "main": {"tokens": 2 * STEPS * BATCH * SEQ_LENGTH, "blend": {"code": 1.0}, "global_batch_size": BATCH}
        },
        # The balance of experts is taken over a micro batch; else as few as the pipeline takes, to save time.
        "micro_batch_size": 2
        if moe or "moe" in family
        else BATCH // layout.data_parallel_size // layout.pipeline_model_parallel_size,
        "schedule": {"style": "constant", "learning_rate": 5e-3, "min_learning_rate": 5e-3, "warmup_steps": 0},
        # Adam divides a gradient by its size: with a smaller epsilon, rounding decides where there is next to none.
        "optimizer": {"weight_decay": 0.1, "adam_eps": 1e-6},
        "eval_interval": 1,
        "eval_sequences": 1,
        "checkpoint_interval": 1,
        **pretrain,
    }
    files = {"digest": "", "tokens": "", "tokenizer": "", "tokenizer_sha256": ""}
    shards = {**files, "vocab_size": 250, "end_of_document": 0, "pad": 1}  # 6 rows of padding
    return Job.model_validate({"model": model, "pretrain": settings, "shards": shards, "versions": {}})


@contextlib.contextmanager
def training(job: Job) -> Iterator[Trainer]:
    """Yield a trainer of this process."""
    with parallel.processes(job.pretrain.layout, "cpu", num_threads=1, seed=job.pretrain.weight_seed) as device:
        yield Trainer(job, device)


def batch(first: int, rows: int, length: int = SEQ_LENGTH) -> Batch:
    """Return windows of the text."""
    windows = torch.stack([TEXT[97 * row :][: length + 1] for row in range(first, first + rows)])
    return Batch(windows[:, :-1], windows[:, 1:], torch.arange(length).expand(rows, -1), None)


def micro_batches(job: Job, step: Step) -> Iterator[Batch]:
    """Yield this replica's."""
    size, replicas = job.pretrain.micro_batch_size, parallel.data_parallel_size()
    first = step.first_sample + parallel.data_parallel_rank() * size
    for start in range(first, first + step.global_batch_size, size * replicas):
        yield batch(start, size)


def train(trainer: Trainer, job: Job, steps: range) -> list[list[float]]:
    """Return loss, gradient norm and balance of experts of each step."""
    found = []
    for number in steps:
        step = job.plan.at(number)
        gradients = trainer.gradients(micro_batches(job, step), step)
        trainer.update(job.pretrain.schedule.learning_rate)
        found.append([gradients.loss, gradients.grad_norm, gradients.balance_loss or 0.0])
    return found


def scores(trainer: Trainer) -> list[list[float]]:
    """Return for some batches, of several shapes, the sums of losses and of hits."""
    batches = [batch(500, 3), batch(520, 3, 27), batch(540, 2), batch(560, 3), batch(580, 1, 9)]
    found = list(trainer.token_scores(batches))
    assert [labels.shape for labels, _, _ in found] == [given.labels.shape for given in batches]
    return [[losses.sum().item(), is_greedy.sum().item()] for _, losses, is_greedy in found]


def follow(job: Job, folder: Path, name: str) -> None:
    """Train from the checkpoint `initial`, then go on from `one`, and write what was seen and both ends."""
    with training(job) as trainer:
        trainer.load_weights(load(folder / "initial", trainer.weights_state_dict()))
        selftest.check_layout(trainer.modules)
        seen: dict[str, Any] = {"trained": train(trainer, job, range(1, STEPS + 1))}
        save(folder / name, trainer.sharded_state_dict())
        if name != "one":
            trainer.load_state_dict(load(folder / "one", trainer.sharded_state_dict(is_loading=True)))
            save(folder / f"{name}-from-one", trainer.sharded_state_dict())
        seen["scores"] = scores(trainer)
        seen["continued"] = train(trainer, job, range(STEPS + 1, STEPS + 3))
        _write(folder / f"{name}.json", seen)


def resume(job: Job, folder: Path, name: str, begin: str | None, steps: range) -> None:
    """Train some steps from the checkpoint `begin`, or from `initial`, and write what was seen and the end."""
    with training(job) as trainer:
        if begin:
            trainer.load_state_dict(load(folder / begin, trainer.sharded_state_dict(is_loading=True)))
        else:
            trainer.load_weights(load(folder / "initial", trainer.weights_state_dict()))
        _write(folder / f"{name}.json", train(trainer, job, steps))
        save(folder / name, trainer.sharded_state_dict())


def _write(path: Path, seen: Any) -> None:
    """Write what every rank must have seen alike."""
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, seen)
    assert all(other == seen for other in everywhere)
    if parallel.is_first():
        path.write_text(json.dumps(seen))


def write_initial(job: Job, folder: Path) -> None:
    """Write the checkpoint `initial`: the weights of a job of one process."""
    with training(job) as trainer:
        save(folder / "initial", trainer.weights_state_dict())


def move(job: Job, path: Path, moved: Path) -> None:
    """Load a checkpoint of any layout in a job of one process, and save it again."""
    with training(job) as trainer:
        trainer.load_state_dict(load(path, trainer.sharded_state_dict(is_loading=True)))
        save(moved, trainer.sharded_state_dict())
