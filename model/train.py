"""The training loop of one rank.

Reads `job.json` and the checkpoint `initial/` in the run's folder, and the shards that the job names. Writes into the
folder: rolling checkpoints, `log.jsonl`, `plots/`, `environment.json`. Started again, it continues from its newest
checkpoint.
"""

import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from model import checkpoint, parallel, selftest
from model.data import TrainingData, ValidationData, token_bytes
from model.environment import environment
from model.job import Job, read_job
from model.live import LiveLog
from model.trainer import Trainer
from model.validation import validate
from stages.files import read_json, write_json


@record
def train(folder: Path) -> None:
    """Train the job in `folder` to its last step and leave its checkpoint as the newest."""
    logging.getLogger("megatron").setLevel(logging.ERROR)
    job = read_job(folder / "job.json")
    settings = job.pretrain
    with parallel.processes(settings.layout, settings.device, settings.num_threads, settings.weight_seed) as device:
        trainer = Trainer(job.model, settings, job.shards.vocab_size, device)
        checkpoints = checkpoint.RollingCheckpoints(folder)
        done = _load_newest(trainer, checkpoints, folder / "initial")
        log = None
        if parallel.is_first():
            write_json(folder / "environment.json", environment(settings))
            log = LiveLog(folder, done, settings.steps, settings.global_batch_size * job.model.seq_length)
        for row in _steps(job, trainer, folder / "index", done):
            if log:
                log.add(row)
            if row["step"] % settings.checkpoint_interval == 0 or row["step"] == settings.steps:
                checkpoint.save(checkpoints.path(row["step"]), trainer.model, trainer.optimizer, trainer.scheduler)
                if log:
                    checkpoints.prune()
        if log:
            log.close()


def _load_newest(trainer: Trainer, checkpoints: checkpoint.RollingCheckpoints, initial: Path) -> int:
    """Load the newest checkpoint, or the initial weights, and return the number of steps they have seen."""
    found = checkpoints.steps()
    if found:
        checkpoint.load(checkpoints.path(found[-1]), trainer.model, trainer.optimizer, trainer.scheduler)
        return found[-1]
    checkpoint.load(initial, trainer.model)
    trainer.weights_changed()
    selftest.check_layout(trainer.model)
    return 0


def _steps(job: Job, trainer: Trainer, index_cache: Path, done: int) -> Iterator[dict[str, Any]]:
    """Take the steps after `done` and yield the log's row of each."""
    settings, shards = job.pretrain, job.shards
    data = TrainingData(shards, job.model, settings, index_cache)
    validation = {
        domain: ValidationData(
            Path(shards.tokens) / "validation" / domain, job.model.seq_length, settings.eval_sequences
        )
        for domain in settings.blend
    }
    sizes = token_bytes(read_json(Path(shards.tokenizer)), shards.vocab_size)
    for step in range(done + 1, settings.steps + 1):
        started = time.perf_counter()
        loss, grad_norm = trainer.step(data.micro_batches(step, trainer.device))
        _require_finite(step, loss, grad_norm)
        row = _row(job, trainer, step, loss, grad_norm, time.perf_counter() - started)
        if step % settings.eval_interval == 0 or step == settings.steps:
            row["validation"] = validate(trainer, validation, sizes, settings.micro_batch_size)
        yield row


def _require_finite(step: int, loss: float, grad_norm: float) -> None:
    """Stop a run that has diverged, before it writes a checkpoint."""
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        raise FloatingPointError(f"step {step}: loss {loss}, gradient norm {grad_norm}; lower the learning rate")


def _row(job: Job, trainer: Trainer, step: int, loss: float, grad_norm: float, seconds: float) -> dict[str, Any]:
    tokens = job.pretrain.global_batch_size * job.model.seq_length
    return {
        "step": step,
        "tokens": step * tokens,
        "loss": loss,
        "grad_norm": grad_norm,
        "learning_rate": trainer.learning_rate,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
    }
