"""What is done when training goes wrong. Imports no torch."""

import math
from typing import Literal

from pydantic import Field

from model.progress import Event, Progress
from stages.settings import Settings

LEAST_DEVIATION = 1e-3
"""Share of the mean that counts as one standard deviation where losses vary less: no alarm at the last digits."""

Policy = Literal["stop", "skip", "roll_back"]
"""End the run; leave out this step's update (but the last step's: there it goes back); or return to the last regular
checkpoint and leave out the data since."""


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


class Guards:
    """Judges what a step gave, before its update.

    It holds no state: all it goes by is in Progress, so that an interrupted run decides as one that was not.

    Args:
        settings: What is a fault, and what is done then.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings

    def judge(self, progress: Progress, loss: float, grad_norm: float) -> Event | None:
        """Return what is wrong with a step and what to do about it, or None if it is sound.

        Args:
            progress: Before the step.
            loss: Its loss in nats a token.
            grad_norm: Norm of its gradient, before clipping.
        """
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            seen = f"loss {loss:.6g}, gradient norm {grad_norm:.6g}"
            return self._event(progress, "non_finite", seen, self._settings.non_finite)
        spike = self._settings.loss_spike
        if spike is None or len(progress.recent_losses) < spike.window:
            return None
        before = progress.recent_losses[-spike.window :]
        mean, deviation = _mean_and_deviation(before)
        score = (loss - mean) / deviation
        if score <= spike.z_score:
            return None
        seen = f"loss {loss:.6g} is {score:.1f} standard deviations above {mean:.6g}, the mean of {len(before)} steps"
        return self._event(progress, "loss_spike", seen, spike.policy)

    def remember(self, progress: Progress, loss: float) -> Progress:
        """Return the progress with the loss of a step that was taken among those that later ones compare with."""
        spike = self._settings.loss_spike
        if spike is None or not math.isfinite(loss):
            return progress
        return progress.model_copy(update={"recent_losses": [*progress.recent_losses, loss][-spike.window :]})

    def _event(self, progress: Progress, kind: str, seen: str, policy: Policy) -> Event:
        action = policy
        if policy != "stop" and len(progress.events) >= self._settings.max_actions:
            action = "stop"
            seen += f"; the {len(progress.events)} skips and roll-backs of pretrain.guards.max_actions are used up"
        return Event(kind=kind, step=progress.step + 1, value=seen, action=action)


def _mean_and_deviation(losses: list[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation of losses; the latter is above 0 whatever they are."""
    mean = math.fsum(losses) / len(losses)
    variance = math.fsum((loss - mean) ** 2 for loss in losses) / len(losses)
    return mean, max(math.sqrt(variance), LEAST_DEVIATION * abs(mean), LEAST_DEVIATION**2)
