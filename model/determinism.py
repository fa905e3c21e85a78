"""Trains a small model twice, and once with a rank killed on the way, and compares every bit of what comes of it.

`python -m model.selftest --deterministic` does so on any machine and in any layout; `--help` lists the degrees. The
model drops activations, so that random states count, and saves asynchronously, so that the kill may find a checkpoint
being written.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from model import megatron

megatron.install()

from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder  # noqa: E402 - after install

from model import plan  # noqa: E402
from model.families.family import ModelSettings  # noqa: E402
from model.job import Job, Shards, versions  # noqa: E402
from model.launching import launch, supervise  # noqa: E402
from model.launching.runtime import LocalLaunch, RuntimeSettings  # noqa: E402
from model.layout import LayoutSettings  # noqa: E402
from model.logs.log import read, without_timing  # noqa: E402
from model.settings import PretrainSettings  # noqa: E402
from stages.errors import UserError  # noqa: E402
from stages.files import sha256_file, sha256_tree, write_json  # noqa: E402
from stages.settings import validate  # noqa: E402

_END_OF_DOCUMENT, _PAD, _VOCAB_SIZE = 256, 257, 258  # after the bytes
_MICRO_BATCH = 2


def main() -> None:
    """Compare as the command line says, print what was found, and exit with 1 if a bit differs."""
    chosen = vars(_arguments().parse_args())
    chosen.pop("deterministic")
    same = True
    try:
        degrees = {name: chosen.pop(name) for name in LayoutSettings.model_fields}
        layout = validate("layout", LayoutSettings, degrees, "the command")
        with tempfile.TemporaryDirectory() as root:
            for text, equal in compare(make_job(Path(root), layout, **chosen), Path(root)):
                sys.stdout.write(f"{text}: {'equal' if equal else 'DIFFERENT'}\n")
                same = same and equal
    except UserError as error:
        sys.exit(f"selftest: {error}")
    sys.exit(0 if same else 1)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.selftest", description=__doc__)
    parser.add_argument("--deterministic", action="store_true", required=True, help="compare training runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bf16", "fp8"], default="float32")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of a run")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a process")
    for name, field in LayoutSettings.model_fields.items():
        flag, default = "--" + name.replace("_", "-"), field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", help=field.description)
        else:
            parser.add_argument(flag, type=int, default=default, help=field.description)
    return parser


def compare(job: Job, root: Path) -> Iterator[tuple[str, bool]]:
    """Train a job three times in folders below `root`; yield each comparison, for people, and whether it is of equals.

    Raises:
        UserError: Training failed, or ended before it could be interrupted.
    """
    first, again, killed = (root / name for name in ("first", "again", "killed"))
    step = job.plan.steps // 2
    for folder in (first, again):
        _train(job, folder)
    interruption = threading.Thread(target=_kill_a_rank, args=(killed, step))
    interruption.start()
    _train(job, killed)
    interruption.join()
    if len(list((killed / "ranks" / "rank-00000").iterdir())) < 2:
        raise UserError("the run ended before it was interrupted; give --steps a larger number")
    for text, folder in (("trained again", again), (f"killed after step {step} and continued", killed)):
        yield from ((f"{text}, {what}", equal) for what, equal in compare_folders(first, folder, job.plan.steps))


def compare_folders(one: Path, other: Path, steps: int) -> Iterator[tuple[str, bool]]:
    """Yield what two runs of `steps` steps left in their folders, by name, and whether it is the same."""
    last = f"step-{steps:08d}"
    for name, folder in (("weights", f"released/{last}"), ("optimizer and random states", last)):
        yield name, sha256_tree(one / folder) == sha256_tree(other / folder)
    rows, other_rows = ([without_timing(row) for row in read(run / "log.jsonl")] for run in (one, other))
    yield "log", rows == other_rows


def _train(job: Job, folder: Path) -> None:
    folder.mkdir()
    runtime = RuntimeSettings(
        launch=LocalLaunch(kind="local", max_restarts=1),
        data_workers=1,
        keep_checkpoints=2,
        async_checkpoints=True,
        heartbeat_seconds=600,
    )
    launch.train(job, runtime, folder)


def _kill_a_rank(folder: Path, step: int) -> None:
    """Kill the last rank of the run in `folder` when its log has the step; the launcher starts all again."""
    while len(read(folder / "log.jsonl")) < step:
        time.sleep(0.01)
    supervise.workers()[-1].kill()


def make_job(root: Path, layout: LayoutSettings, device: str, precision: str, threads: int, steps: int) -> Job:
    """Return a job of a model of about a million weights in any layout, on this package's source, token by byte.

    Raises:
        UserError: There is no such layout, or it is not for this model.
    """
    model = _model(layout)
    batch = _MICRO_BATCH * layout.data_parallel_size * 2 * layout.pipeline_model_parallel_size
    pretrain = {
        "device": device,
        "precision": precision,
        "num_threads": threads,
        "layout": layout.model_dump(),
        "weight_seed": 1,
        "data_seed": 2,
        "phases": {
            "main": {"tokens": steps * batch * model.seq_length, "blend": {"code": 1.0}, "global_batch_size": batch}
        },
        "micro_batch_size": _MICRO_BATCH,
        "dropout": 0.1,
        "schedule": {"style": "cosine", "learning_rate": 2e-3, "min_learning_rate": 2e-4, "warmup_steps": steps // 10},
        "optimizer": {"weight_decay": 0.1},
        "eval_interval": max(1, steps // 2),
        "eval_sequences": 2,
        "checkpoint_interval": max(1, steps // 10),
        "released": {"powers_until": 0, "every": steps},
    }
    settings = PretrainSettings.model_validate(pretrain)
    plan.check(model, settings)
    return Job(model=model, pretrain=settings, shards=_shards(root), versions=versions())


def _model(layout: LayoutSettings) -> ModelSettings:
    experts = layout.expert_model_parallel_size
    shape = {
        "num_layers": 2 * layout.pipeline_model_parallel_size * layout.virtual_pipeline_model_parallel_size,
        "hidden_size": 128,
        "ffn_hidden_size": 384,
        "num_attention_heads": 8,
        "num_query_groups": 8,
        "seq_length": 128,
    }
    mixture = {"family": "mixtral", "moe": {"num_experts": 2 * experts, "router_topk": 2}}
    return ModelSettings.model_validate({**shape, **(mixture if experts > 1 else {"family": "llama"})})


def _shards(root: Path) -> Shards:
    """Write this package's source as token shards, and a tokenizer of bytes."""
    tokenizer = {"model": {"vocab": {chr(byte): byte for byte in range(256)}}, "added_tokens": []}
    write_json(root / "tokenizer.json", tokenizer)
    sources = sorted(Path(__file__).parent.glob("*.py"))
    for split, files in (("train", sources[4:]), ("validation", sources[:4])):
        (root / "tokens" / split).mkdir(parents=True)
        builder = IndexedDatasetBuilder(str(root / "tokens" / split / "code.bin"), dtype=np.uint16)
        for file in files:
            ids = [*file.read_bytes(), _END_OF_DOCUMENT]
            builder.add_document(torch.tensor(ids), [len(ids)])
        builder.finalize(str(root / "tokens" / split / "code.idx"))
    return Shards(
        digest=sha256_tree(root / "tokens"),
        tokens=str(root / "tokens"),
        tokenizer=str(root / "tokenizer.json"),
        tokenizer_sha256=sha256_file(root / "tokenizer.json"),
        vocab_size=_VOCAB_SIZE,
        end_of_document=_END_OF_DOCUMENT,
        pad=_PAD,
    )
