"""The timing of a step, for its row in the log (`model.logs.log.TIMING`)."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
import torch.distributed as dist

from model.job import Job
from model.logs.energy import EnergyMeter
from model.logs.flops import flops_per_token, mfu, total_peak
from model.logs.log import Row
from model.plan import Step

T = TypeVar("T")


class Meter:
    """Measures steps; every rank has one, and all call `row` together.

    Args:
        job: For the FLOPs of a token.
        device: Of this process.
    """

    def __init__(self, job: Job, device: torch.device) -> None:
        self._job = job
        self._device = device
        self._peak = total_peak(job.pretrain.precision, device)
        self._energy = EnergyMeter(device)
        self._saving = 0.0
        self.start()

    def start(self) -> None:
        """Begin a step."""
        self._started = time.perf_counter()
        self._joules, _ = self._energy.joules()
        self._waited = 0.0

    def waiting_for(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield the batches, and count how long each took to come."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Count what is done inside as time for checkpoints, in the row of the next step."""
        started = time.perf_counter()
        yield
        self._saving += time.perf_counter() - started

    def row(self, step: Step) -> Row:
        """Return the timing of the step that has ended."""
        seconds = time.perf_counter() - self._started
        joules, measured = self._energy.joules()
        phase = self._job.plan.phases[step.phase]
        tokens_per_second = step.global_batch_size * phase.seq_length / seconds
        flops = flops_per_token(self._job.model, self._job.shards.vocab_size, phase.seq_length)
        total = torch.tensor(joules - self._joules, dtype=torch.float64, device=self._device)
        dist.all_reduce(total)
        saving, self._saving = self._saving, 0.0
        return {
            "seconds": seconds,
            "tokens_per_second": tokens_per_second,
            "mfu": mfu(tokens_per_second, flops, self._peak),
            "data_seconds": self._waited,
            "checkpoint_seconds": saving,
            "joules": total.item(),
            "joules_measured": measured,
        }
