"""What a run tells while it goes: one JSON line a step, trackers, and a progress line."""

import json
import os
import sys
from io import FileIO
from pathlib import Path

from tqdm import tqdm

from model.job import Job
from model.launching.runtime import RuntimeSettings
from model.logs.log import Row, describe, rewind
from model.logs.trackers import open_trackers
from model.progress import Progress
from stages.errors import UserError

_LINE = "{percentage:.0f}% of {total_fmt} tokens {bar:10} {remaining} left, {rate_fmt}{postfix}"
_SECONDS = 2.0
"""Between two progress lines: they also go into the log of rank 0, which a month of them must not fill."""


class LiveLog:
    """The log of one run in its scratch folder. Rank 0 has it.

    It is first cut off at the step of the checkpoint that the run continues from, and the trackers with it.

    Args:
        folder: The scratch folder; `log.jsonl`, `plots/` and `tracking/` are in it.
        job: Steps and tokens of the whole run, and its identity.
        runtime: Names the trackers.
        progress: Where the run continues.
        branched_at: Step of another run's checkpoint that the run began with, whose log has no rows up to it.

    Raises:
        UserError: The log of the earlier attempt is shorter than its checkpoint.
    """

    def __init__(
        self, folder: Path, job: Job, runtime: RuntimeSettings, progress: Progress, branched_at: int = 0
    ) -> None:
        self._path = folder / "log.jsonl"
        self._plan = job.plan
        rows = rewind(self._path, progress.step)
        logged = rows[-1]["step"] if rows else branched_at
        if logged < progress.step - _skipped(progress):
            raise UserError(
                f"'{self._path}' ends at step {logged}, its checkpoint at {progress.step}; delete '{folder}'"
            )
        self._file = self._append()
        self._trackers = open_trackers(runtime.trackers, folder, job, rows)
        self._bits_per_byte: float | None = None
        self._event = ""
        for row in rows:
            self._remember(row)
        self._bar = tqdm(
            total=self._plan.tokens,
            initial=self._tokens(progress.step),
            bar_format=_LINE,
            unit=" tokens",
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=_SECONDS,
        )

    def add(self, row: Row) -> None:
        """Write the row of a step that was taken.

        Args:
            row: step, phase, tokens, batch, first_sample, loss, grad_norm, grad_norms, learning_rate, timing and, at
                times, z_loss, events, validation and tasks.

        Raises:
            UserError: The disk is full or gone.
        """
        try:
            self._write(row)
        except OSError as error:
            raise UserError(
                f"step {row['step']} cannot be logged: {error}; make room, and start again: the run goes on from its "
                "newest checkpoint"
            ) from error
        for event in row.get("events", []):
            self.note(describe(event))
        self._remember(row)
        self._bar.set_postfix_str(self._headline(row), refresh=False)
        self._bar.update(row["tokens"] - self._bar.n)

    def note(self, text: str) -> None:
        """Show what has happened, at once and, until something else happens, in the progress line."""
        self._event = text
        self._bar.write(text, file=sys.stderr)

    def rewind(self, step: int) -> None:
        """Go back to a step: what was logged since is forgotten."""
        self._file.close()
        rows = rewind(self._path, step)
        self._file = self._append()
        for tracker in self._trackers:
            tracker.rewind(rows)
        self._bar.update(self._tokens(step) - self._bar.n)

    def sync(self) -> None:
        """Put the log on the disk; done before a checkpoint is saved, so that none outlives its log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what waits and leave the terminal tidy."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()
        self._bar.close()

    def _append(self) -> FileIO:
        return self._path.open("ab", buffering=0)  # a row outlives a kill, and none is left to write when it fails

    def _write(self, row: Row) -> None:
        left = json.dumps(row, allow_nan=False).encode() + b"\n"
        while left:  # a disk that fills up takes a part before it fails
            left = left[self._file.write(left) :]
        for tracker in self._trackers:
            tracker.add(row)

    def _tokens(self, step: int) -> int:
        return self._plan.at(step).tokens if step else 0

    def _remember(self, row: Row) -> None:
        if "validation" in row:
            self._bits_per_byte = row["validation"]["bits_per_byte"]
        for event in row.get("events", []):
            self._event = describe(event)

    def _headline(self, row: Row) -> str:
        parts = [f"step {row['step']}/{self._plan.steps}", f"loss {row['loss']:.3f}"]
        if self._bits_per_byte is not None:
            parts.append(f"{self._bits_per_byte:.3f} bits/byte")
        parts.append(f"MFU {row['mfu']:.1%}")
        return ", ".join([*parts, self._event] if self._event else parts)


def _skipped(progress: Progress) -> int:
    """Return how many of the last steps a guard left out, which have no row."""
    return len({event.step for event in progress.pending if event.action == "skip" and event.step <= progress.step})
