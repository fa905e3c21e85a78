"""Train the model with Megatron-Core: `python -m stages.pretrain`.

Reads `out/shards` and `out/tokenizer`, and what `pretrain.start` names. Writes to `out/pretrain`:

- `initial/`: the weights before step 1, a Megatron-Core checkpoint
- `checkpoint/`: weights, optimizer and all else after the last step, from which another run can branch
- `checkpoints/`: released ones on the way (`pretrain.released`) and `average/`, the weights' (`pretrain.averaging`)
- `log.jsonl`: a line a step, with every event; `plots/`
- `documents.parquet`: which documents each step was trained on (`python -m model.data.documents STEP`)
- `mixture.json`: tokens of each domain that were asked for and that were got, and those of each source and license
- `metrics.json`, `run.json`: settings, environment, digests

While it runs, everything stands in `out/pretrain/scratch/<fingerprint>/`, which DVC does not delete: a run that was
killed continues there, and only there, from its newest checkpoint. Timing is in the live log alone and ends as
`out/pretrain/timing.jsonl`, as what the processes said ends in `out/pretrain/ranks/`: neither is an output of the
graph, because they differ from run to run.
"""

import os
import shutil
from pathlib import Path

from model.families.family import ModelSettings
from model.job import Job, Shards, versions
from model.launching.runtime import RuntimeSettings
from model.logs import log, trackers
from model.plan import check, check_epochs
from model.settings import PretrainSettings
from stages.errors import UserError
from stages.files import OUT, read_json, require, sha256_file, sha256_tree, write_json, write_jsonl
from stages.runner import run
from stages.settings import load

FOLDER = OUT / "pretrain"
TOKENIZER = OUT / "tokenizer" / "tokenizer" / "tokenizer.json"


def main() -> None:
    """Train, or continue, and put the results in place."""
    job, runtime = read_job_from_params(), load("runtime", RuntimeSettings)
    trackers.require(runtime.trackers)
    scratch = FOLDER / "scratch" / job.fingerprint()[:16]
    scratch.mkdir(parents=True, exist_ok=True)

    from model.launching import launch

    if launch.train(job, runtime, scratch):
        write_results(job, scratch)
        print(log.summary(log.read(FOLDER / "timing.jsonl")))
        shutil.rmtree(scratch)
    else:
        launch.wait_for_results(scratch)  # DVC may have started this stage, and records what is there when it ends


def read_job_from_params() -> Job:
    """Return the job that params.yaml and the shards describe.

    Raises:
        UserError: A parameter is wrong, or an input is missing or does not fit the parameters.
    """
    model, pretrain = load("model", ModelSettings), load("pretrain", PretrainSettings)
    check(model, pretrain)
    index_file = require(OUT / "shards" / "index.json", "shards")
    index = read_json(index_file)
    domains = sorted(index["splits"]["train"])
    if pretrain.domains != domains:
        raise UserError(
            f"params.yaml: the blends of pretrain.phases name {pretrain.domains}, but the shards hold {domains}; "
            "give each domain of the data a share in some phase"
        )
    check_epochs(model, pretrain, {domain: index["splits"]["train"][domain]["tokens"] for domain in domains})
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
    start = _digest_of_start(pretrain)
    return Job(model=model, pretrain=pretrain, shards=shards, versions=versions(), start_sha256=start)


def _digest_of_start(pretrain: PretrainSettings) -> str | None:
    if pretrain.start is None:
        return None
    path = Path(pretrain.start.path)
    if not path.is_dir():
        raise UserError(f"params.yaml: pretrain.start.path = '{path}' is no folder; name that of a checkpoint")
    return sha256_tree(path)


def write_results(job: Job, scratch: Path) -> None:
    """Put the results of a finished run beside its scratch folder, the scratch untouched until all are there."""
    from model.data import mixture
    from model.data.documents import RECORD
    from model.data.record import write_record

    _link_folders(job, scratch)
    rows = log.read(scratch / "log.jsonl")
    write_jsonl(FOLDER / "log.jsonl", map(log.without_timing, rows))
    shutil.copyfile(scratch / "log.jsonl", FOLDER / "timing.jsonl")
    write_record(scratch / RECORD, job, scratch / "index", rows)
    shutil.copyfile(scratch / RECORD, FOLDER / RECORD)
    write_json(FOLDER / "mixture.json", mixture.read(job, FOLDER / RECORD, Path(job.shards.tokens) / "train"))
    write_json(FOLDER / "metrics.json", _metrics(job, rows))
    write_json(
        FOLDER / "run.json",
        {
            "fingerprint": job.fingerprint(),
            "settings": job.model_dump(mode="json"),
            "environment": read_json(scratch / "environment.json"),
            "weights": {
                "initial": sha256_tree(FOLDER / "initial"),
                "final": sha256_tree(FOLDER / "checkpoint"),
                **{path.name: sha256_tree(path) for path in sorted((FOLDER / "checkpoints").iterdir())},
            },
        },
        sort_keys=False,  # the order of the phases is their order in training
    )


def _link_folders(job: Job, scratch: Path) -> None:
    """Give every folder of results its place; it shares its bytes with the scratch folder."""
    sources = {
        "initial": "initial",
        "checkpoint": f"step-{job.plan.steps:08d}",
        "checkpoints": "released",
        "checkpoints/average": "average",
        "plots": "plots",
        "ranks": "ranks",
        "tracking": "tracking",
    }
    for name, source in sources.items():
        shutil.rmtree(FOLDER / name, ignore_errors=True)
        if (scratch / source).exists():
            shutil.copytree(scratch / source, FOLDER / name, copy_function=os.link)
    (FOLDER / "checkpoints").mkdir(exist_ok=True)  # DVC expects it


def _metrics(job: Job, rows: list[log.Row]) -> dict[str, object]:
    from model.counts import counts

    last = rows[-1]
    return {
        "parameters": counts(job.model, job.shards.vocab_size).total,
        "steps": last["step"],
        "tokens": last["tokens"],
        "train_loss": last["loss"],
        "validation_loss": last["validation"]["loss"],
        "validation_bits_per_byte": last["validation"]["bits_per_byte"],
        "validation": last["validation"]["domains"],
        "events": sum(len(row.get("events", [])) for row in rows),
    }


if __name__ == "__main__":
    run(__file__, main)
