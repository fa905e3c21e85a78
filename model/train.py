"""The training loop of one rank.

Reads `job.json` and `runtime.json` in the run's folder, and the shards that the job names. Writes into the folder:
`initial/`, rolling checkpoints, `released/`, `average/`, `log.jsonl`, `plots/`, `environment.json`. Started again, it
continues from its newest checkpoint.
"""

import logging
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from model import parallel, selftest
from model.checkpoints import checkpoint
from model.checkpoints.checkpoint import Checkpoints
from model.data.batches import TrainingData
from model.environment import environment
from model.evaluation import Evaluation
from model.guards import Guards
from model.initialize import initialize
from model.job import Job, read_job
from model.launching import heartbeat
from model.launching.runtime import RuntimeSettings, read_runtime
from model.launching.signals import PAUSED, StopRequest
from model.logs.live import LiveLog
from model.logs.log import Row
from model.logs.meter import Meter
from model.optim.schedule import learning_rate
from model.plan import Step
from model.progress import Event, Progress
from model.restart import Restart, nothing
from model.settings import FromCheckpoint
from model.trainer import Gradients, Trainer
from stages.errors import UserError
from stages.files import write_json


@record
def train(folder: Path) -> None:
    """Train the job in `folder` to its last step, or until it is asked to stop."""
    logging.getLogger("megatron").setLevel(logging.ERROR)
    job, runtime = read_job(folder / "job.json"), read_runtime(folder / "runtime.json")
    stop = StopRequest(runtime.time_limit_minutes)
    settings = job.pretrain
    if os.environ["RANK"] == "0":
        initialize(job, folder)
    with parallel.processes(settings.layout, settings.device, settings.num_threads, settings.weight_seed) as device:
        run = Run(job, runtime, folder, device)
        try:
            run.to_the_end(stop)
        finally:
            run.close()


class Run:
    """A job in progress: each part of the engine in its turn.

    Args:
        job: What is trained.
        runtime: How.
        folder: The run's.
        device: Of this process.
    """

    def __init__(self, job: Job, runtime: RuntimeSettings, folder: Path, device: torch.device) -> None:
        self._job, self._plan, self._settings = job, job.plan, job.pretrain
        self._folder = folder
        self._progress = nothing(job)
        self._beat()
        self._trainer = Trainer(job, device)
        interval = job.pretrain.checkpoint_interval
        self._checkpoints = Checkpoints(folder, runtime, interval, job.fingerprint())
        self._guards = Guards(job.pretrain.guards)
        self._evaluation = Evaluation(job, self._trainer, self._beat)
        self._data = TrainingData(job, folder / "index", runtime.data_workers)
        self._restart = Restart(job, folder, self._trainer, self._checkpoints)
        self._progress = self._begin()
        self._meter = Meter(job, device)
        self._log = self._open_log(runtime) if parallel.is_first() else None

    def to_the_end(self, stop: StopRequest) -> None:
        """Take every step that is left, and save the last checkpoint; or stop between steps, and save one."""
        while self._progress.step < self._plan.steps:
            reason = self._agreed(stop.requested())
            if reason:
                self._pause(reason)
                return
            self._take(self._plan.at(self._progress.step + 1))
        self._checkpoints.finish()
        if self._trainer.average:
            checkpoint.save(self._folder / "average", self._trainer.averaged_weights_state_dict())
        dist.barrier()  # a node that leaves long before the others would end the rendezvous under them

    def close(self) -> None:
        """End threads and close files."""
        self._data.close()
        if self._log:
            self._log.close()

    # One step ---------------------------------------------------------------------------------------------------

    def _take(self, step: Step) -> None:
        """Take a step, unless a guard says otherwise."""
        phase = self._plan.phases[step.phase]
        self._trainer.set_phase(phase)
        if step.number == phase.first_step:  # another mixture has other losses
            self._progress = self._progress.model_copy(update={"recent_losses": []})
        self._meter.start()
        skipped = self._progress.skipped_samples[step.phase]
        batches = self._data.micro_batches(step, skipped, self._trainer.device)
        found = self._trainer.gradients(self._meter.waiting_for(batches), step)
        event = self._guards.judge(self._progress, found.loss, found.grad_norm)
        if event:
            self._carry_out(event, step)
            return
        rate = learning_rate(self._settings.schedule, step.number, self._plan.steps)
        self._trainer.update(rate)
        timing = self._meter.row(step)
        row = self._row(step, found, rate) | self._evaluation.after(step)
        after = self._guards.remember(self._progress, found.loss)
        self._progress = after.model_copy(
            update={"step": step.number, "tokens": step.tokens, "logged": len(after.events)}
        )
        self._finish(step, row | timing)

    def _row(self, step: Step, found: Gradients, rate: float) -> Row:
        row: Row = {
            "step": step.number,
            "phase": self._plan.phases[step.phase].name,
            "tokens": step.tokens,
            "batch": step.global_batch_size,
            "first_sample": step.first_sample + self._progress.skipped_samples[step.phase],
            "loss": found.loss,
            "grad_norm": found.grad_norm,
            "grad_norms": found.grad_norms,
            "learning_rate": rate,
        }
        if self._settings.z_loss:
            row["z_loss"] = found.z_loss
        if found.balance_loss is not None:
            row["balance_loss"] = found.balance_loss
        if found.further_loss is not None:
            row["further_loss"] = found.further_loss
        if self._progress.pending:
            row["events"] = [event.model_dump(mode="json") for event in self._progress.pending]
        return row

    def _finish(self, step: Step, row: Row) -> None:
        """Check, log and save what is due after a step."""
        interval = self._settings.guards.replica_check_interval
        if interval and step.number % interval == 0:
            selftest.check_replicas(self._trainer.modules)
        if self._log:
            self._log.add(row)  # before the checkpoint, which must not outlive it
        with self._meter.saving():
            self._checkpoints.poll()
            self._save(step.number)
        self._beat()

    def _save(self, step: int) -> None:
        if self._settings.released and step in self._settings.released:
            self._release(step)
        if step % self._settings.checkpoint_interval == 0 or step == self._plan.steps:
            self._save_rolling(step)

    def _save_rolling(self, step: int) -> None:
        if self._log:
            self._log.sync()
        self._checkpoints.save(step, self._trainer.sharded_state_dict(), self._progress)

    def _release(self, step: int) -> None:
        assert self._settings.released
        if self._settings.released.with_optimizer:
            self._checkpoints.release(step, self._trainer.sharded_state_dict(), self._progress)
        else:
            self._checkpoints.release(step, self._trainer.weights_state_dict())

    # What guards do ---------------------------------------------------------------------------------------------

    def _carry_out(self, event: Event, step: Step) -> None:
        """Stop, leave the update out, or go back, as a guard says; the last step is never left out."""
        if event.action == "stop":
            raise UserError(
                f"step {event.step}: {event.value}; lower the learning rate, or change the policy in pretrain.guards"
            )
        self._trainer.discard()
        last = step.number == self._plan.steps  # which has to be taken: the run ends with its measurement
        if event.action == "roll_back" or last:
            self._progress = self._restart.before(step, self._progress, event)
            if self._log:
                self._log.rewind(self._progress.step)
        else:
            events = [*self._progress.events, event]
            self._progress = self._progress.model_copy(
                update={"step": step.number, "tokens": step.tokens, "events": events}
            )
            self._save(step.number)

    # Beginning and pausing --------------------------------------------------------------------------------------

    def _begin(self) -> Progress:
        continued = self._restart.newest()
        if continued:
            return continued
        progress = self._restart.beginning()
        if self._settings.released and progress.step in self._settings.released:
            self._release(progress.step)
        return progress

    def _open_log(self, runtime: RuntimeSettings) -> LiveLog:
        write_json(self._folder / "environment.json", environment(self._settings))
        start = self._settings.start
        branched_at = checkpoint.read_progress(Path(start.path)).step if isinstance(start, FromCheckpoint) else 0
        log = LiveLog(self._folder, self._job, runtime, self._progress, branched_at)
        for text in self._checkpoints.damaged:
            log.note(text)
        if self._progress.step > branched_at:
            log.note(f"continues after step {self._progress.step}")
        return log

    def _agreed(self, reason: str | None) -> str | None:
        """Return a reason to stop that any rank has, the same on all."""
        some = torch.tensor(float(reason is not None), device=self._trainer.device)
        dist.all_reduce(some, op=dist.ReduceOp.MAX)
        if not some.item():
            return None
        reasons: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(reasons, reason)
        return next(str(reason) for reason in reasons if reason)

    def _pause(self, reason: str) -> None:
        step = self._progress.step
        self._save_rolling(step)
        self._checkpoints.finish()
        if self._log:
            self._log.note(f"stopped after step {step}: {reason}")
            write_json(self._folder / PAUSED, {"step": step, "reason": reason})
        dist.barrier()

    def _beat(self) -> None:
        heartbeat.beat(self._folder, dist.get_rank(), self._progress.step)
