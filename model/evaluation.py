"""What is measured on a model while it trains: loss and bits per byte on validation text, and lm-eval tasks."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from model.data.batches import Batch, ValidationData, token_bytes
from model.job import Job
from model.plan import Step
from model.scoring import Scores
from model.trainer import Trainer
from model.validation import validate
from stages.files import read_json


class Evaluation:
    """Measures at the intervals of a job. Every rank has one, and all call it together.

    Args:
        job: Data, intervals and tasks.
        trainer: The model.
        alive: Called before every batch, as a sign of life.

    Raises:
        UserError: A validation shard is too short, or a task cannot be run.
    """

    def __init__(self, job: Job, trainer: Trainer, alive: Callable[[], None]) -> None:
        self._job = job
        self._trainer = trainer
        self._alive = alive
        self._bytes = token_bytes(read_json(Path(job.shards.tokenizer)), job.shards.vocab_size)
        self._data = {length: self._validation_data(length) for length in {p.seq_length for p in job.plan.phases}}
        if job.pretrain.eval_tasks:
            from evals.live import load_live  # lm-eval takes seconds to import

            load_live(job.pretrain.eval_tasks)

    def _validation_data(self, seq_length: int) -> dict[str, ValidationData]:
        settings, folder = self._job.pretrain, Path(self._job.shards.tokens) / "validation"
        return {
            domain: ValidationData(folder / domain, seq_length, settings.eval_sequences, settings.document_mask)
            for domain in settings.domains
        }

    def after(self, step: Step) -> dict[str, Any]:
        """Return what is due after a step: `validation`, `tasks`, both or nothing."""
        settings, last = self._job.pretrain, step.number == self._job.plan.steps
        found: dict[str, Any] = {}
        seq_length = self._job.plan.phases[step.phase].seq_length
        if step.number % settings.eval_interval == 0 or last:
            data = self._data[seq_length]
            found["validation"] = validate(
                self._scores, data, self._bytes, settings.micro_batch_size, self._trainer.device
            )
        tasks = settings.eval_tasks
        if tasks and (step.number % tasks.interval == 0 or last):
            from evals.live import evaluate_live

            found["tasks"] = evaluate_live(
                self._scores,
                Path(self._job.shards.tokenizer),
                tasks,
                seq_length,
                settings.micro_batch_size,
                self._trainer.device,
            )
        return found

    def _scores(self, batches: Iterable[Batch]) -> Iterator[Scores]:
        return self._trainer.token_scores(self._with_signs_of_life(batches))

    def _with_signs_of_life(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self._alive()
            yield batch
