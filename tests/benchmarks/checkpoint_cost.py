"""What checkpoints cost training: `python -m tests.benchmarks.checkpoint_cost [--threads N] [--saves N]`.

Models of 4.5 and 46 million weights train in one process, a checkpoint after each step. Printed are milliseconds: a
step alone; how long a save stops training (the state dict, the plan, the copy); the step beside the writing; and
putting a whole checkpoint in its place. Medians but for the first save, whose copy takes new memory.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from model import parallel
from model.checkpoints.checkpoint import Checkpoints
from model.counts import counts
from model.data.batches import Batch
from model.families.llama import Llama
from model.launching.runtime import LocalLaunch, RuntimeSettings
from model.progress import Progress
from model.trainer import Trainer
from tests.model import jobs

MODELS = {4096: (3, 256, 768), 8192: (12, 512, 1536)}
"""Layers and widths by vocabulary."""
SEQ_LENGTH = 128


def main() -> None:
    """Measure and print both models, writing meanwhile and in place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--saves", type=int, default=8)
    chosen = parser.parse_args()
    for vocab_size, (layers, hidden, ffn) in MODELS.items():
        model = Llama(
            num_layers=layers,
            hidden_size=hidden,
            ffn_hidden_size=ffn,
            num_attention_heads=8,
            num_query_groups=4,
            seq_length=SEQ_LENGTH,
        )
        job = jobs.job(Path(), model, vocab_size)
        with parallel.processes(job.pretrain.layout, "cpu", chosen.threads, seed=1) as device:
            run = Run(Trainer(job, device), vocab_size)
            alone = statistics.median(milliseconds(run.step) for _ in range(chosen.saves))
            print(f"{counts(model, vocab_size).total / 1e6:.1f} M weights: a step alone {alone:.0f}")
            for apart in (True, False):
                with tempfile.TemporaryDirectory() as folder:
                    first, *rest = run.saves(Path(folder), apart, chosen.saves)
                print("  written meanwhile" if apart else "  written in place")
                print("    first:", text(first))
                print("    then: ", text([statistics.median(column) for column in zip(*rest, strict=True)]))


class Run:
    """A model in training on random tokens."""

    def __init__(self, trainer: Trainer, vocab_size: int) -> None:
        self._trainer = trainer
        tokens = torch.randint(vocab_size, (2, SEQ_LENGTH))
        positions = torch.arange(SEQ_LENGTH).expand_as(tokens)
        self._batches = [Batch(tokens, tokens.roll(-1, 1), positions, None)] * 2

    def step(self) -> None:
        self._trainer.gradients(iter(self._batches), jobs.job(Path()).plan.at(1))
        self._trainer.update(1e-3)

    def saves(self, folder: Path, apart: bool, count: int) -> list[list[float]]:
        """Return of each save how long it stopped training, the step after it, and what put it in place."""
        runtime = RuntimeSettings(
            launch=LocalLaunch(kind="local"),
            data_workers=0,
            keep_checkpoints=2,
            async_checkpoints=apart,
            heartbeat_seconds=600,
        )
        kept, found = Checkpoints(folder, runtime, 1, "0" * 64), []
        for number in range(1, count + 1):
            progress = Progress(step=number, tokens=0, skipped_samples=[0], recent_losses=[])
            stopped = self._save(kept, number, progress)
            beside, placed = milliseconds(self.step), 0.0
            while not kept.path(number).exists():
                time.sleep(0.01)
                placed = milliseconds(kept.poll)
            found.append([stopped, beside, placed])
        return found

    def _save(self, kept: Checkpoints, number: int, progress: Progress) -> float:
        return milliseconds(lambda: kept.save(number, self._trainer.sharded_state_dict(), progress))


def milliseconds(action: Callable[[], None]) -> float:
    """Return how long an action takes."""
    started = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - started)


def text(times: list[float]) -> str:
    """Return the line of a save."""
    return "stopped {:.0f}, the step after it {:.0f}, put in place {:.0f}".format(*times)


if __name__ == "__main__":
    main()
