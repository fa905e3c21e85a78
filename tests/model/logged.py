"""A job and the rows of its log, as the training loop writes them."""

from typing import Any

from model.job import Job
from model.launching.runtime import RuntimeSettings
from model.logs.log import Row
from model.progress import Progress

STEPS = 12
TOKENS = 32
"""Of a step."""


def job() -> Job:
    """Return a job of 12 steps."""
    phase = {"tokens": STEPS * TOKENS, "blend": {"code": 1.0}, "global_batch_size": 4}
    pretrain = {
        "device": "cpu",
        "precision": "float32",
        "num_threads": 1,
        "weight_seed": 3,
        "data_seed": 5,
        "phases": {"main": phase},
        "micro_batch_size": 4,
        "schedule": {"style": "constant", "learning_rate": 0.1, "min_learning_rate": 0.1, "warmup_steps": 0},
        "optimizer": {"weight_decay": 0.1},
        "eval_interval": 4,
        "eval_sequences": 1,
        "checkpoint_interval": 3,
    }
    shape = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}
    files = {"digest": "", "tokens": "", "tokenizer": "", "tokenizer_sha256": ""}
    shards = {**files, "vocab_size": 101, "end_of_document": 0, "pad": 1}
    model = {"family": "llama", **shape, "seq_length": 8}
    settings = {"model": model, "pretrain": pretrain, "shards": shards, "versions": {}}
    return Job.model_validate(settings)


def runtime(*trackers: str) -> RuntimeSettings:
    """Return how a run is carried out."""
    settings: dict[str, Any] = {
        "launch": {"kind": "local"},
        "data_workers": 0,
        "keep_checkpoints": 2,
        "async_checkpoints": False,
        "heartbeat_seconds": 60,
        "trackers": list(trackers),
    }
    return RuntimeSettings.model_validate(settings)


def progress(step: int, **changes: Any) -> Progress:
    """Return the progress after a step."""
    state = {"step": step, "tokens": step * TOKENS, "skipped_samples": [0], "recent_losses": []}
    return Progress.model_validate({**state, **changes})


def row(step: int, take: int = 0) -> Row:
    """Return the row of a step; another take of it saw other data."""
    loss = 6.0 / step + take
    row: Row = {
        "step": step,
        "phase": "main",
        "tokens": step * TOKENS,
        "batch": 4,
        "first_sample": (step - 1) * 4,
        "loss": loss,
        "z_loss": 1e-7 * loss,
        "grad_norm": 1 / 3 + take,
        "grad_norms": {"embedding": 0.1, "layers": 1e-17 * step},
        "learning_rate": 0.1,
        "seconds": 2.0,
        "tokens_per_second": TOKENS / 2,
        "mfu": 0.4,
        "data_seconds": 0.02,
        "checkpoint_seconds": 0.5 if step % 3 == 0 else 0.0,
        "joules": 20.0,
        "joules_measured": False,
    }
    if step % 4 == 0:
        row["validation"] = {"loss": loss, "bits_per_byte": loss / 4, "domains": {"code": {"loss": loss}}}
        row["tasks"] = {"arc_easy": {"acc": 0.25, "acc_stderr": 0.1}}
    if take and step == 4:
        row["events"] = [event(step=6, action="roll_back", back_to=3)]
    return row


def event(step: int, action: str, back_to: int | None = None) -> Row:
    """Return an event as it stands in a row."""
    value = "loss 9 is 7.0 standard deviations above 2, the mean of 3 steps"
    return {"kind": "loss_spike", "step": step, "value": value, "action": action, "back_to": back_to}
