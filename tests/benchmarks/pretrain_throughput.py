"""Our training step against others': `python -m tests.benchmarks.pretrain_throughput [--help]`.

All train the model of params.yaml (or of a preset over it) from the same weights on the same random batches, each in a
process of its own as its users run it. On a CPU they take turns, step by step, so that a busy machine slows all alike;
on a GPU they run one after the other. Their losses must agree at every step, or nothing is compared.

- CPU: `python -m tests.benchmarks.pretrain_throughput [--precision bf16]`
- GPU: `python -m tests.benchmarks.pretrain_throughput --preset gpu-1700m --micro-batch-size 4 --compile`
"""

import argparse
import contextlib
import math
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from model.families.family import ModelSettings
from model.job import Job
from model.logs import flops
from model.network import gemm
from model.settings import PretrainSettings
from stages.params import PRESETS, overlay
from stages.settings import PARAMS, read_yaml
from tests.benchmarks.peers import PEERS, Loop

Step = Callable[[Tensor, Tensor], float]
"""Takes a step on tokens and labels `[b, s]`; returns the loss before it."""

WARM_UP = 3
TOLERANCE = {"float32": 1e-4, "bf16": 3e-2}
COMPILED = " compiled"
OURS = "openbase"
PRODUCT = "matrix product"
"""Not a contestant, but takes its turns: a large product, to whose rate the steps' are compared."""
PRODUCT_SIZE = {"cpu": 2048, "cuda": 8192}


class Turn(NamedTuple):
    """What a contestant's step gave."""

    loss: float
    seconds: float
    bytes: int
    """Most memory that its process had: of the GPU, or of the process on a CPU."""


def main() -> None:
    """Measure, compare losses and print."""
    chosen = arguments()
    job = make_job(chosen)
    names = [OURS, PRODUCT, *chosen.peers]
    if chosen.compile:
        names += [name + COMPILED for name in (OURS, "transformers", "plain")]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if job.pretrain.device == "cpu":
            contestants = {name: stack.enter_context(Contestant(name, job, Path(folder))) for name in names}
            turns = alternate(contestants, chosen.steps + WARM_UP)
        else:
            turns = {}
            for name in names:
                with Contestant(name, job, Path(folder)) as contestant:
                    turns |= alternate({name: contestant}, chosen.steps + WARM_UP)
    turns = {name: taken for name, taken in turns.items() if taken}
    check_losses(turns, TOLERANCE[job.pretrain.precision])
    report(turns, job)


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="of model/presets, laid over params.yaml")
    parser.add_argument("--precision", choices=sorted(TOLERANCE))
    parser.add_argument("--threads", type=int, default=4, help="of each process, on a CPU")
    parser.add_argument("--seq-length", type=int)
    parser.add_argument("--micro-batch-size", type=int)
    parser.add_argument("--compile", action="store_true", help="also measure ours, transformers and plain compiled")
    parser.add_argument("--peers", nargs="*", choices=sorted(PEERS), default=sorted(PEERS))
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args()


def make_job(chosen: argparse.Namespace) -> Job:
    """Return params.yaml with what was chosen, on one process with one micro batch a step."""
    params = read_yaml(PARAMS)
    if chosen.preset:
        overlay(params, read_yaml(PRESETS / f"{chosen.preset}.yaml"))
    for section, name, value in (
        ("model", "seq_length", chosen.seq_length),
        ("pretrain", "precision", chosen.precision),
        ("pretrain", "micro_batch_size", chosen.micro_batch_size),
    ):
        if value is not None:
            params[section][name] = value
    pretrain = params["pretrain"]
    schedule = {"style": "constant", "learning_rate": 1e-3, "min_learning_rate": 1e-3, "warmup_steps": 0}
    pretrain.update(layout={}, schedule=schedule, z_loss=0.0, compile=False, num_threads=chosen.threads)
    batch = pretrain["micro_batch_size"]
    tokens = batch * params["model"]["seq_length"] * 10_000
    pretrain["phases"] = {"main": {"tokens": tokens, "blend": {"random": 1.0}, "global_batch_size": batch}}
    files = {"digest": "", "tokens": "", "tokenizer": "", "tokenizer_sha256": ""}
    return Job.model_validate(
        {
            "model": ModelSettings.model_validate(params["model"]),
            "pretrain": PretrainSettings.model_validate(pretrain),
            "shards": {**files, "vocab_size": params["tokenizer"]["vocab_size"], "end_of_document": 0, "pad": 1},
            "versions": {},
        }
    )


class Contestant:
    """A process that takes steps when it is told to.

    Args:
        name: Of `PEERS`, or ours; compiled if it ends so.
        job: What it trains.
        folder: Where ours leaves the initial weights for the others; it must be first.
    """

    def __init__(self, name: str, job: Job, folder: Path) -> None:
        self._name = name
        spawn = multiprocessing.get_context("spawn")
        self._pipe, other = spawn.Pipe()
        self._process = spawn.Process(target=contest, args=(name, job, folder, other), daemon=True)

    def __enter__(self) -> "Contestant":
        self._process.start()
        self._left_out = self._pipe.recv()
        if self._left_out:
            print(f"{self._name} is left out: {self._left_out}")
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()

    def step(self, number: int) -> list[Turn]:
        """Return the turn, or nothing if it is left out."""
        if self._left_out:
            return []
        time.sleep(0.01)  # threads of the one before spin a little while for more work
        self._pipe.send(number)
        return [Turn(*self._pipe.recv())]


def contest(name: str, job: Job, folder: Path, pipe: Connection) -> None:
    """Be a contestant: say whether all is there, then answer each number with a step, until None."""
    device = torch.device(job.pretrain.device)
    torch.set_num_threads(job.pretrain.num_threads)
    with contextlib.ExitStack() as stack:
        try:
            make = {OURS: openbase, PRODUCT: matrix_product}.get(name.removesuffix(COMPILED), peer)
            step = stack.enter_context(make(name, job, folder))
        except ImportError as error:
            pipe.send(str(error))
            return
        pipe.send("")
        while (number := pipe.recv()) is not None:
            pipe.send(tuple(timed(step, *random_batch(job, number, device))))


def timed(step: Step, tokens: Tensor, labels: Tensor) -> Turn:
    """Take a step and measure it."""
    on_gpu = tokens.device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    loss = step(tokens, labels)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    most = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Turn(loss, seconds, most)


def random_batch(job: Job, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return tokens and labels `[b, s]`, the same for all contestants."""
    generator = torch.Generator().manual_seed(number)
    shape = (job.pretrain.micro_batch_size, job.model.seq_length + 1)
    tokens = torch.randint(0, job.shards.vocab_size, shape, generator=generator).to(device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


@contextlib.contextmanager
def openbase(name: str, job: Job, folder: Path) -> Iterator[Step]:
    """Our trainer, as the training loop uses it."""
    from model import parallel
    from model.data.batches import Batch
    from model.families.weights import tensors
    from model.trainer import Trainer

    settings = job.pretrain.model_copy(update={"compile": name.endswith(COMPILED)})
    job = job.model_copy(update={"pretrain": settings})
    with parallel.processes(settings.layout, settings.device, settings.num_threads, settings.weight_seed) as device:
        trainer = Trainer(job, device)
        if not (folder / "weights.pt").exists():
            own = trainer.modules[0].state_dict()
            weights: dict[str, Tensor] = {}
            for weight in job.model.weights(job.shards.vocab_size):
                weights.update(tensors(weight, own[weight.megatron]))
            torch.save({name: weight.float().cpu().clone() for name, weight in weights.items()}, folder / "weights.pt")
        positions = torch.arange(job.model.seq_length, device=device).expand(settings.micro_batch_size, -1)

        def step(tokens: Tensor, labels: Tensor) -> float:
            found = trainer.gradients([Batch(tokens, labels, positions, None)], job.plan.at(1))
            trainer.update(settings.schedule.learning_rate)
            return found.loss

        yield step


@contextlib.contextmanager
def peer(name: str, job: Job, folder: Path) -> Iterator[Step]:
    """A peer in its loop."""
    module, logits = PEERS[name.removesuffix(COMPILED)](job, torch.load(folder / "weights.pt"))
    module.to(job.pretrain.device)
    yield Loop(module, torch.compile(logits) if name.endswith(COMPILED) else logits, job)


@contextlib.contextmanager
def matrix_product(_name: str, job: Job, _folder: Path) -> Iterator[Step]:
    """The better of torch's ways to multiply large matrices in the job's precision."""
    device = torch.device(job.pretrain.device)
    dtype = torch.bfloat16 if job.pretrain.precision == "bf16" else torch.float32
    size = PRODUCT_SIZE[device.type]
    x, y = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def step(_tokens: Tensor, _labels: Tensor) -> float:
        gemm.product(x, y)
        return math.nan

    yield step


def alternate(contestants: dict[str, Contestant], count: int) -> dict[str, list[Turn]]:
    """Let each take a step, `count` times."""
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    for number in range(count):
        for name, contestant in contestants.items():
            turns[name] += contestant.step(number)
    return turns


def check_losses(turns: dict[str, list[Turn]], tolerance: float) -> None:
    """Check that all trained alike."""
    for name in turns.keys() - {PRODUCT}:
        for number, (ours, theirs) in enumerate(zip(turns[OURS], turns[name], strict=True)):
            assert abs(ours.loss - theirs.loss) < tolerance, (name, number, ours.loss, theirs.loss)


def report(turns: dict[str, list[Turn]], job: Job) -> None:
    """Print of each contestant its speed, ours over it, its share of a large matrix product's rate, and its memory."""
    tokens = job.pretrain.micro_batch_size * job.model.seq_length
    step_flops = tokens * flops.flops_per_token(job.model, job.shards.vocab_size, job.model.seq_length)
    product_flops = 2 * PRODUCT_SIZE[job.pretrain.device] ** 3
    taken = {name: all_of_it[WARM_UP:] for name, all_of_it in turns.items()}
    product = product_flops / statistics.median(turn.seconds for turn in taken[PRODUCT])
    print(f"{job.pretrain.precision}, {tokens} tokens a step, {PRODUCT} {product / 1e9:.0f} GFLOP/s")
    print(f"{'':24}{'tokens/s':>10}{'ours is':>9}{'of product':>12}{'GiB':>8}")
    for name in (name for name in turns if name != PRODUCT):
        rate = tokens / statistics.median(turn.seconds for turn in taken[name])
        faster = median_ratio(taken[name], taken[OURS])
        share = median_ratio(taken[PRODUCT], taken[name]) * step_flops / product_flops
        print(f"{name:24}{rate:10.0f}{faster:8.2f}x{share:12.1%}{taken[name][-1].bytes / 2**30:8.2f}")


def median_ratio(numerator: list[Turn], denominator: list[Turn]) -> float:
    """Return the median over turns of the ratio of the seconds."""
    return statistics.median(a.seconds / b.seconds for a, b in zip(numerator, denominator, strict=True))


if __name__ == "__main__":
    main()
