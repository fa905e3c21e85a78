"""Where a run begins, continues and goes back to: its place in the plan, and the weights and states of that place."""

from pathlib import Path

from model import selftest
from model.checkpoints import checkpoint, random_states
from model.checkpoints.checkpoint import Checkpoints
from model.job import Job
from model.optim import averaging
from model.plan import Step
from model.progress import Event, Progress
from model.settings import FromCheckpoint
from model.trainer import Trainer
from stages.errors import UserError


def nothing(job: Job) -> Progress:
    """Return the place before the first step."""
    return Progress(step=0, tokens=0, skipped_samples=[0] * len(job.plan.phases), recent_losses=[])


class Restart:
    """Fills a trainer with what belongs to a place in the plan. Every rank has one, and calls it together.

    Args:
        job: What is trained.
        folder: The run's, with `initial/`.
        trainer: What is filled.
        checkpoints: The run's.
    """

    def __init__(self, job: Job, folder: Path, trainer: Trainer, checkpoints: Checkpoints) -> None:
        self._job, self._plan = job, job.plan
        self._folder = folder
        self._trainer = trainer
        self._checkpoints = checkpoints

    def newest(self) -> Progress | None:
        """Continue from the newest sound checkpoint; return its place, or None if there is none."""
        step = self._checkpoints.newest()
        return None if step is None else self._load(step)

    def beginning(self) -> Progress:
        """Load what the run begins with, the initial weights or the checkpoint that it branches from, and check it.

        Raises:
            UserError: The checkpoint is not on the way of this run's plan.
        """
        start = self._job.pretrain.start
        if isinstance(start, FromCheckpoint):
            progress = self._branch(Path(start.path))
        else:
            weights = checkpoint.load(self._folder / "initial", self._trainer.weights_state_dict())
            self._trainer.load_weights(weights)
            progress = nothing(self._job)
        selftest.check_layout(self._trainer.modules)
        return progress

    def before(self, step: Step, now: Progress, event: Event) -> Progress:
        """Return to the last regular checkpoint before a step, and leave the data since out.

        Args:
            step: The step that a guard judged.
            now: The place before it.
            event: What the guard says.
        """
        target = self._checkpoints.regular(step.number)
        then = self._load(target) if target else self.beginning()
        skipped = list(now.skipped_samples)
        for number in range(then.step + 1, step.number + 1):
            left_out = self._plan.at(number)
            skipped[left_out.phase] += left_out.global_batch_size
        events = [*now.events, event.model_copy(update={"action": "roll_back", "back_to": then.step})]
        return then.model_copy(update={"skipped_samples": skipped, "events": events})

    def _load(self, step: int) -> Progress:
        state, progress = self._checkpoints.load(step, self._trainer.sharded_state_dict(is_loading=True))
        self._trainer.load_state_dict(state)
        return progress

    def _branch(self, path: Path) -> Progress:
        progress = checkpoint.read_progress(path)
        if progress.step >= self._plan.steps or self._plan.at(max(1, progress.step)).tokens != progress.tokens:
            raise UserError(
                f"'{path}' has seen {progress.tokens} tokens in {progress.step} steps, where this run's phases make "
                f"{self._plan.steps} steps and another number of tokens; keep the phases, and end later"
            )
        wanted = random_states.without_foreign(self._trainer.sharded_state_dict(is_loading=True), path)
        self._trainer.load_state_dict(checkpoint.load(path, averaging.without_missing(wanted, path)))
        more = len(self._plan.phases) - len(progress.skipped_samples)
        return progress.model_copy(update={"skipped_samples": [*progress.skipped_samples, *[0] * more]})
