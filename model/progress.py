"""How far a run has come: what a checkpoint holds beside weights, optimizer and random states. Imports no torch."""

from pydantic import Field

from stages.settings import Settings


class Event(Settings):
    """Something that a guard did."""

    kind: str
    """`non_finite` or `loss_spike`."""
    step: int
    """The step that was being taken."""
    value: str
    """What was seen, for people."""
    action: str
    """The policy that was followed."""
    back_to: int | None = None
    """The step whose checkpoint a roll-back returned to."""


class Progress(Settings):
    """The place of a run in its plan; equal for a run that was interrupted and one that was not."""

    step: int
    """Steps taken."""
    tokens: int
    """Tokens of those steps, by the plan."""
    skipped_samples: list[int]
    """By phase, samples left out by roll-backs."""
    recent_losses: list[float]
    """Losses of the newest steps, oldest first, as many as the guard against spikes compares with."""
    events: list[Event] = Field(default=[])
    """What guards did so far, oldest first."""
    logged: int = 0
    """How many of them stand in rows of the log."""

    @property
    def pending(self) -> list[Event]:
        """Events that the next row of the log has to tell."""
        return self.events[self.logged :]
