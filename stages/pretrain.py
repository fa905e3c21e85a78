"""Train the model with Megatron-Core: `python -m stages.pretrain`.

Reads `out/shards` and `out/tokenizer`. Writes to `out/pretrain`: `initial/` and `checkpoint/` (Megatron-Core
checkpoints: the weights before step 1, and weights and optimizer after the last), `log.jsonl` (a line a step),
`plots/`, `metrics.json` and `run.json` (settings, environment, digests).

While it runs, everything stands in `out/pretrain/scratch/<fingerprint>/`, which DVC does not delete: a run that
was killed continues there, and only there, from its newest checkpoint. Timing is in the live log alone and ends
as `out/pretrain/timing.jsonl`, which is no output of the graph because it differs from run to run.
"""

import os
import shutil
from pathlib import Path

from model.job import Job, Shards, versions
from model.log import read, without_timing
from model.settings import ModelSettings, PretrainSettings, check_layout
from stages.errors import UserError
from stages.files import OUT, read_json, require, sha256_file, sha256_tree, write_json, write_jsonl
from stages.runner import run
from stages.settings import load

TOKENIZER = OUT / "tokenizer" / "tokenizer" / "tokenizer.json"


def main() -> None:
    """Train, or continue, and put the results in place."""
    job = read_job_from_params()
    scratch = OUT / "pretrain" / "scratch" / job.fingerprint()[:16]
    scratch.mkdir(parents=True, exist_ok=True)
    write_json(scratch / "job.json", job.model_dump(mode="json"))

    from model import launch

    if not (scratch / "initial").exists():
        launch.initialize(scratch)
    launch.train(job, scratch)
    _write_results(job, scratch)
    shutil.rmtree(scratch)


def read_job_from_params() -> Job:
    """Return the job that params.yaml and the shards describe.

    Raises:
        UserError: A parameter is wrong, or an input is missing or does not fit the parameters.
    """
    model, pretrain = load("model", ModelSettings), load("pretrain", PretrainSettings)
    check_layout(model, pretrain)
    index_file = require(OUT / "shards" / "index.json", "shards")
    index = read_json(index_file)
    domains = index["splits"]["train"]
    if set(pretrain.blend) != set(domains):
        raise UserError(
            f"params.yaml: pretrain.blend names {sorted(pretrain.blend)}, but the shards hold {sorted(domains)}; "
            "give each domain of the data a share"
        )
    tokenizer = index["tokenizer"]
    shards = Shards(
        digest=sha256_file(index_file),
        tokens=str(require(OUT / "shards" / "tokens", "shards")),
        tokenizer=str(require(TOKENIZER, "tokenizer")),
        tokenizer_sha256=tokenizer["sha256"],
        vocab_size=tokenizer["vocab_size"],
        end_of_document=tokenizer["end_of_document"],
        pad=tokenizer["pad"],
    )
    return Job(model=model, pretrain=pretrain, shards=shards, versions=versions())


def _write_results(job: Job, scratch: Path) -> None:
    """Put the results of a finished run beside its scratch folder, the scratch untouched until all are there."""
    out = OUT / "pretrain"
    final = scratch / f"step-{job.pretrain.steps:08d}"
    for source, name in ((scratch / "initial", "initial"), (final, "checkpoint"), (scratch / "plots", "plots")):
        shutil.rmtree(out / name, ignore_errors=True)
        shutil.copytree(source, out / name, copy_function=os.link)
    rows = read(scratch / "log.jsonl")
    write_jsonl(out / "log.jsonl", map(without_timing, rows))
    shutil.copyfile(scratch / "log.jsonl", out / "timing.jsonl")
    last = rows[-1]
    write_json(
        out / "metrics.json",
        {
            "parameters": job.model.num_parameters(job.shards.vocab_size),
            "steps": last["step"],
            "tokens": last["tokens"],
            "train_loss": last["loss"],
            "validation_loss": last["validation"]["loss"],
            "validation_bits_per_byte": last["validation"]["bits_per_byte"],
            "validation": last["validation"]["domains"],
        },
    )
    write_json(
        out / "run.json",
        {
            "fingerprint": job.fingerprint(),
            "settings": job.model_dump(mode="json"),
            "environment": read_json(scratch / "environment.json"),
            "weights": {"initial": sha256_tree(out / "initial"), "final": sha256_tree(out / "checkpoint")},
        },
    )


if __name__ == "__main__":
    run(__file__, main)
