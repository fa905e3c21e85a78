"""How a run is carried out, which does not decide its bytes and may change while it rests. Imports no torch."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from stages.settings import Settings

OWN_SBATCH_OPTIONS = {
    "chdir": "the job runs where the stage does",
    "dependency": "a job waits for the one before it in the same folder",
    "job-name": "it names the run",
    "nodes": "it is runtime.launch.nodes",
    "ntasks": "a node runs one task, which starts its processes",
    "ntasks-per-node": "a node runs one task, which starts its processes",
    "open-mode": "the log of a job that was queued again goes on",
    "output": "it is slurm.log in the run's folder",
    "requeue": "a job that reaches its time limit is queued again",
    "signal": "it is runtime.launch.save_seconds",
}
"""Options of sbatch that the job's script must have as they are, and why."""


class LocalLaunch(Settings):
    """All processes on this machine."""

    kind: Literal["local"]
    """Says which launch this is."""
    max_restarts: int = Field(default=0, ge=0)
    """Times that a failed process restarts the job from its newest checkpoint."""


class TorchrunLaunch(Settings):
    """Several nodes, each of which runs the same stage on the same shared folder."""

    kind: Literal["torchrun"]
    """Says which launch this is."""
    nodes: int = Field(gt=0)
    """Nodes that must meet before training starts."""
    endpoint: str
    """`host:port` of the node that hosts the rendezvous; it must be one of the nodes."""
    join_minutes: int = Field(default=30, gt=0)
    """How long a node waits for the others to come, or to come back, before it gives up."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that a lost process or node restarts the job from its newest checkpoint."""

    @field_validator("endpoint")
    @classmethod
    def _has_a_port(cls, endpoint: str) -> str:
        if not re.fullmatch(r"[\w.-]+:\d{1,5}", endpoint):
            raise ValueError("must be host:port, such as node-1:29400")
        return endpoint


class SlurmLaunch(Settings):
    """A Slurm job of several nodes, submitted with `sbatch --wait`."""

    kind: Literal["slurm"]
    """Says which launch this is."""
    nodes: int = Field(gt=0)
    """Nodes of the job."""
    port: int = Field(default=29400, gt=0, lt=65536)
    """Port of the rendezvous on its first node."""
    join_minutes: int = Field(default=30, gt=0)
    """As for torchrun."""
    max_restarts: int = Field(default=3, ge=0)
    """As for torchrun; a lost node makes Slurm start the whole job again, which is not counted."""
    save_seconds: int = Field(default=300, gt=0, lt=65536)
    """How long before the job's time limit its processes are told to save a checkpoint; it is then queued again."""
    sbatch: dict[str, str] = Field(default={})
    """Options of sbatch by name, `partition`, `account`, `time`, `gres`; an empty value for one that takes none."""

    @field_validator("sbatch")
    @classmethod
    def _leaves_the_script_its_own(cls, options: dict[str, str]) -> dict[str, str]:
        for name, value in options.items():
            if name in OWN_SBATCH_OPTIONS:
                raise ValueError(f"'{name}' is set by openbase: {OWN_SBATCH_OPTIONS[name]}; remove it")
            if not re.fullmatch(r"[a-z][a-z-]*", name) or "\n" in value:
                raise ValueError(f"'{name}' = {value!r} is not a long option of sbatch and its value; correct it")
        return options


class RuntimeSettings(Settings):
    """Section `runtime` of params.yaml: no stage is run again when it changes."""

    launch: Annotated[LocalLaunch | TorchrunLaunch | SlurmLaunch, Field(discriminator="kind")]
    """Where the processes run."""
    data_workers: int = Field(ge=0)
    """Threads that prepare batches ahead of the step."""
    keep_checkpoints: int = Field(gt=0)
    """Newest rolling checkpoints that are kept; two, so that a damaged one has one before it."""
    async_checkpoints: bool
    """Whether a checkpoint is written while training goes on."""
    heartbeat_seconds: int = Field(gt=0)
    """A process that takes no step for so long is stuck: the job is ended."""
    time_limit_minutes: float | None = Field(default=None, gt=0)
    """Save a checkpoint and end after so long; null for no limit."""
    trackers: list[Literal["tensorboard", "wandb"]] = Field(default=[])
    """Where metrics go beside DVCLive."""


def read_runtime(path: Path) -> RuntimeSettings:
    """Return the settings that the launcher wrote."""
    return RuntimeSettings.model_validate_json(path.read_text(encoding="utf-8"))
