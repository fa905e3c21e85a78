"""What is done when training goes wrong. Imports no torch."""

from typing import Literal

from pydantic import Field

from stages.settings import Settings

Policy = Literal["stop", "skip", "roll_back"]
"""End the run; leave out this step's update; or return to the newest checkpoint and leave out the data since."""


class SpikeSettings(Settings):
    """A loss far above those before it."""

    window: int = Field(gt=1)
    """Steps whose losses are compared with; no step is judged before there are as many."""
    z_score: float = Field(gt=0)
    """Standard deviations above their mean."""
    policy: Policy
    """What is done."""


class GuardSettings(Settings):
    """Guards of a run. Each that acts stands in the log, in the row of the next step that was taken."""

    non_finite: Policy = "stop"
    """When the loss or a gradient is not a number."""
    loss_spike: SpikeSettings | None = None
    """When the loss jumps."""
    max_actions: int = Field(default=10, gt=0)
    """Skips and roll-backs in one run before it stops."""
    replica_check_interval: int | None = Field(default=None, gt=0)
    """Steps between two comparisons of the weights of replicas; the run stops when they differ."""
