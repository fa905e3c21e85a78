"""Where the numbers of a log go beside `log.jsonl`: DVCLive plots, and by parameter TensorBoard and Weights & Biases.

Their packages are imported when they are used: the stage asks `require` before anything heavy is loaded.
"""

import importlib.metadata
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from model.job import Job
from model.logs.log import Row, describe, scalars
from stages.errors import UserError


class Tracker(Protocol):
    """Takes the rows of a log."""

    def add(self, row: Row) -> None:
        """Take the row of a step."""

    def rewind(self, rows: Sequence[Row]) -> None:
        """Go back to these rows, the first of the log; other steps follow them than did before."""

    def close(self) -> None:
        """Write what is not written yet."""


def require(names: Sequence[str]) -> None:
    """Check, without torch, that trackers can work.

    Raises:
        UserError: A package or a login is missing; the message says how to get it.
    """
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            raise UserError(
                f"runtime.trackers names '{name}', which is not installed; `pip install {name}` or take it out"
            ) from None
    if "wandb" in names:
        _require_login()


def _require_login() -> None:
    import wandb

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
        raise UserError(
            "runtime.trackers names 'wandb', which is not logged in here; `wandb login`, set WANDB_API_KEY, or set "
            "WANDB_MODE=offline"
        )


def open_trackers(names: Sequence[str], folder: Path, job: Job, rows: Sequence[Row]) -> list[Tracker]:
    """Return DVCLive and the trackers named, each gone back to the rows of a log.

    Args:
        names: `tensorboard`, `wandb`.
        folder: The run's folder; DVCLive writes to `plots/`, the others to `tracking/`.
        job: Its fingerprint identifies the run.
        rows: What stays of an earlier attempt.
    """
    trackers: list[Tracker] = [DvcLive(folder / "plots", rows)]
    if "tensorboard" in names:
        trackers.append(TensorBoard(folder / "tracking" / "tensorboard", rows))
    if "wandb" in names:
        trackers.append(WeightsAndBiases(folder / "tracking", job, rows))
    return trackers


class DvcLive:
    """Plots for `dvc plots show`: the same bytes for the same rows, however often the run was interrupted.

    Args:
        folder: Of the plots; what is in it is replaced.
        rows: The log so far.
    """

    _EACH_STEP = ("loss", "z_loss", "grad_norm", "learning_rate")
    _AT_TIMES = ("validation", "tasks")

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        from dvclive.live import Live

        shutil.rmtree(folder, ignore_errors=True)
        self._live = Live(str(folder), save_dvc_exp=False, dvcyaml=None, report=None)
        self._folder = folder / "plots" / "metrics"
        self.rewind(rows)

    def add(self, row: Row) -> None:
        """Add a point to each plot."""
        self._live.step = row["step"]
        for name, value in self._plotted(row).items():
            self._live.log_metric(name, value, plot=True)

    def rewind(self, rows: Sequence[Row]) -> None:
        """Write the plots anew, as DVCLive would, which opens the file for every point."""
        shutil.rmtree(self._folder, ignore_errors=True)
        plots: dict[str, list[str]] = {}
        for row in rows:
            for name, value in self._plotted(row).items():
                lines = plots.setdefault(name, [f"step\t{Path(name).name}\n"])
                lines.append(f"{row['step']}\t{value}\n")
        for name, lines in plots.items():
            path = self._folder / f"{name}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")

    def close(self) -> None:
        """Do nothing: every point is in its file."""

    def _plotted(self, row: Row) -> dict[str, float]:
        """Return what is worth opening a file for: a few numbers of each step, all of those measured at times."""
        return scalars({name: row[name] for name in self._EACH_STEP + self._AT_TIMES if name in row})


class TensorBoard:
    """An event file for each attempt; TensorBoard takes a step from the newest that has it.

    Args:
        folder: Of the event files, those of earlier attempts among them.
        rows: The log so far.
    """

    def __init__(self, folder: Path, rows: Sequence[Row]) -> None:
        self._folder = folder
        self._open(rows)

    def add(self, row: Row) -> None:
        """Write every number of the row, and its events."""
        for name, value in scalars(row).items():
            self._writer.add_scalar(name, value, row["step"])
        for event in row.get("events", []):
            self._writer.add_text("events", describe(event), row["step"])

    def rewind(self, rows: Sequence[Row]) -> None:
        """Go on in a new file, which hides the later steps of those before."""
        self.close()
        self._open(rows)

    def close(self) -> None:
        """Write what waits."""
        self._writer.close()

    def _open(self, rows: Sequence[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        step = rows[-1]["step"] if rows else 0
        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)


class WeightsAndBiases:
    """A run of W&B, found again by the job's fingerprint; WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY are followed.

    Its steps never go back: of those that an interrupted run takes again, W&B keeps the first values, which are equal.
    After a roll-back they are not, so the rest goes into another run of the same group.

    Args:
        folder: W&B makes `wandb/` in it.
        job: Its settings are the run's configuration.
        rows: The log so far.
    """

    def __init__(self, folder: Path, job: Job, rows: Sequence[Row]) -> None:
        self._folder = folder
        self._job = job
        self._roll_backs = sum(event["action"] == "roll_back" for row in rows for event in row.get("events", []))
        self._run = self._open()

    def add(self, row: Row) -> None:
        """Send every number of the row, and its events."""
        events = {"events": "; ".join(map(describe, row["events"]))} if "events" in row else {}
        self._run.log({**scalars(row), **events}, step=row["step"])

    def rewind(self, rows: Sequence[Row]) -> None:  # noqa: ARG002 - W&B cannot forget, so what stays does not matter
        """Go on in another run."""
        self.close()
        self._roll_backs += 1
        self._run = self._open()

    def close(self) -> None:
        """Send what waits."""
        self._run.finish()

    def _open(self) -> Any:
        import wandb

        try:
            return self._init(None)
        except wandb.errors.CommError:  # a run must not end, or fail to go on at night, because W&B is away
            wandb.teardown()
            return self._init("offline")

    def _init(self, mode: Literal["offline"] | None) -> Any:
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        group = self._job.fingerprint()[:16]
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", "openbase"),
            group=group,
            id=f"{group}-{self._roll_backs}",
            resume="allow",
            dir=self._folder,
            config=self._job.model_dump(mode="json"),
            mode=mode,
            settings=wandb.Settings(console="off", silent=True),
        )
