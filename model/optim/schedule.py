"""The learning rate as a pure function of the step. Imports no torch.

A function, not Megatron-Core's OptimizerParamScheduler: that one counts its own steps, which a roll-back, a branched
decay or a resumed run would each have to set right. `tests/model/optim/test_schedule.py` compares the two.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from stages.settings import Settings

Shape = Literal["cosine", "linear", "square_root"]
"""How a rate goes from 1 to 0: half a cosine, a line, or 1 - sqrt(t) (Hägele et al. 2024)."""


class ScheduleSettings(Settings):
    """Warm-up, a stable part, decay."""

    style: Literal["cosine", "linear", "wsd", "constant"]
    """cosine and linear decay from the end of warm-up; wsd stays at the peak until `decay_steps` before the end."""
    learning_rate: float = Field(gt=0)
    """Peak, reached at the end of warm-up."""
    min_learning_rate: float = Field(ge=0)
    """Floor, reached at the last step; a constant rate has none."""
    warmup_steps: int = Field(ge=0)
    """Steps of linear warm-up."""
    decay_steps: int = Field(default=0, ge=0)
    """Steps of decay at the end, of wsd alone."""
    decay_shape: Shape = "linear"
    """Shape of that decay."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate {self.min_learning_rate} is above learning_rate {self.learning_rate}; lower it"
            )
        if (self.style == "wsd") != (self.decay_steps > 0):
            raise ValueError(
                f"style {self.style} with decay_steps {self.decay_steps}: wsd needs decay_steps, the others take none"
            )
        return self


def learning_rate(schedule: ScheduleSettings, step: int, steps: int) -> float:
    """Return the rate of a step.

    Args:
        schedule: The shape.
        step: Counted from 1; the rate of step `warmup_steps` is the peak, that of step `steps` the floor.
        steps: Steps of the run.
    """
    if step < schedule.warmup_steps:
        return schedule.learning_rate * step / schedule.warmup_steps
    shape: Shape
    if schedule.style == "constant":
        return schedule.learning_rate
    if schedule.style == "wsd":
        start, shape = steps - schedule.decay_steps, schedule.decay_shape
    else:
        start, shape = schedule.warmup_steps, schedule.style
    if step <= start:
        return schedule.learning_rate
    left = _left(shape, (step - start) / (steps - start))
    return schedule.min_learning_rate + left * (schedule.learning_rate - schedule.min_learning_rate)


def _left(shape: Shape, done: float) -> float:
    """Return how much of the way down is left when a fraction of the time is done."""
    if shape == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if shape == "linear" else 1 - math.sqrt(done)
