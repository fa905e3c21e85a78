"""Starts the processes of a training job on this machine, as torchrun does, and waits for them."""

import os
import subprocess
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from model.job import Job
from stages.errors import UserError


def initialize(folder: Path) -> None:
    """Make the initial weights of the job in `folder`, in a process of their own.

    Raises:
        UserError: It failed; its own message stands above.
    """
    ended = subprocess.run([sys.executable, "-W", "ignore", "-m", "model.process", "initialize", str(folder)])
    if ended.returncode:
        raise UserError(
            f"the initial weights could not be made in '{folder}' (exit code {ended.returncode}); see above"
        )


def train(job: Job, folder: Path) -> None:
    """Run the job in `folder` to its end, continuing what is there.

    Raises:
        KeyboardInterrupt: The launcher was told to stop.
        UserError: A process failed; its own message and traceback stand above.
    """
    os.environ.update(_process_environment(job))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.pretrain.layout.world_size,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any free port
        run_id=job.fingerprint(),
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-W", "ignore", "-m", "model.process", "train", str(folder))
    except SignalException:
        raise KeyboardInterrupt from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise UserError(
            f"training stopped: rank {rank} ended with exit code {failure.exitcode}: {_message(failure.message)}. "
            f"`dvc repro pretrain` continues from the newest checkpoint in '{folder}'."
        ) from None


def _process_environment(job: Job) -> dict[str, str]:
    """Return what a process must find in its environment before it imports torch."""
    threads = str(job.pretrain.num_threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic GEMMs on CUDA
        "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # Megatron-Core's order of communication and GEMMs
        "DVC_NO_ANALYTICS": "1",  # DVCLive must not call home from a training process
    }


def _message(message: object) -> str:
    text = message.get("message", message) if isinstance(message, dict) else message
    return " ".join(str(text).split())
