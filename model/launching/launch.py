"""Starts the processes of a training job, here, on several nodes or through Slurm, and waits for its end."""

import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from model.job import Job
from model.launching import node, slurm
from model.launching.runtime import RuntimeSettings, SlurmLaunch
from stages.errors import UserError
from stages.settings import Settings


def train(job: Job, runtime: RuntimeSettings, folder: Path, worker: Sequence[str] = node.WORKER) -> bool:
    """Run the job to its end, continuing what is in `folder`.

    Args:
        job: The job; it and `runtime` are written into the folder for the processes.
        runtime: How it is carried out.
        folder: The run's folder. Where there are several nodes, all of them see it under this path.
        worker: Python's arguments for one process.

    Returns:
        Whether the results are this process's to write: with `torchrun`, the node that has rank 0 at the end;
        otherwise yes. Where they are not, the stage ends after `wait_for_results`.

    Raises:
        KeyboardInterrupt: It was told to stop, and has saved a checkpoint if it had begun.
        UserError: It failed, or reached its time limit.
    """
    _write(folder / "job.json", job)
    _write(folder / "runtime.json", runtime)
    if isinstance(runtime.launch, SlurmLaunch):
        slurm.run(job, runtime.launch, folder, worker)
        return True
    return node.run(job, runtime, runtime.launch, folder, worker)


def wait_for_results(folder: Path, seconds: float = 600) -> None:
    """Wait until the node whose task it is has written the results, the last act of which removes the run's folder.

    The stage of any node may be the one that DVC has started, and DVC looks for the results when it ends.

    Raises:
        UserError: The folder is still there after some time.
    """
    deadline = time.monotonic() + seconds
    while folder.exists():
        if time.monotonic() > deadline:
            raise UserError(f"another node has not written the results of '{folder}', and may say why; run it again")
        time.sleep(0.5)


def _write(path: Path, settings: Settings) -> None:
    """Write settings, which several nodes may do at once: each in a file of its own, which then takes the place.

    Not by `write_json`, which sorts keys: the order of a job's phases is their meaning.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    partial.write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
