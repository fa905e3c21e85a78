"""How a run is carried out, which does not decide its bytes and may change while it rests. Imports no torch."""

from typing import Annotated, Literal

from pydantic import Field

from stages.settings import Settings


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
    max_restarts: int = Field(default=3, ge=0)
    """Times that a lost process or node restarts the job from its newest checkpoint."""


class SlurmLaunch(Settings):
    """A Slurm job of several nodes, submitted with `sbatch --wait`."""

    kind: Literal["slurm"]
    """Says which launch this is."""
    nodes: int = Field(gt=0)
    """Nodes of the job."""
    port: int = Field(default=29400, gt=0, lt=65536)
    """Port of the rendezvous on its first node."""
    max_restarts: int = Field(default=3, ge=0)
    """As for torchrun."""
    sbatch: dict[str, str] = {}
    """Options of sbatch by name: `partition`, `account`, `time`, `gres`."""


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
    trackers: list[Literal["tensorboard", "wandb"]] = []
    """Where metrics go beside DVCLive."""
