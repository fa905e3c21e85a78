"""Signals to the processes of a job: to save a checkpoint and end, or to say where they are. Imports no torch."""

import faulthandler
import math
import os
import signal
import time
from types import FrameType

STARTED = "OPENBASE_STARTED"
"""Environment variable: when the launcher started, by `time.monotonic`, which Linux counts from the boot for all."""
TIME_LIMIT = "time limit"
"""The reason to end that is no signal."""
PAUSED = "paused.json"
"""File in the run's folder by which its processes say at which `step` and for what `reason` they ended early."""
TRACE = signal.SIGUSR1
"""Makes a process write where each of its threads is to stderr; the launcher sends it to one that is stuck."""


def trace_faults() -> None:
    """Let a crash, and TRACE, leave the stack of every thread on stderr, even of one that does not return to Python."""
    faulthandler.enable()
    faulthandler.register(TRACE)


class StopRequest:
    """Whether this process has been asked to end, by a signal or by the clock.

    A signal only leaves a note, however often it comes: a step or a checkpoint goes to its end, and the launcher kills
    a process that takes too long. Ranks learn of a request at different times, so they must agree before they act.

    Args:
        time_limit_minutes: `runtime.time_limit_minutes`, counted from the launcher's start, over all restarts.
    """

    def __init__(self, time_limit_minutes: float | None) -> None:
        self._signal: str | None = None
        started = float(os.environ.get(STARTED, time.monotonic()))
        self._deadline = math.inf if time_limit_minutes is None else started + 60 * time_limit_minutes
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def requested(self) -> str | None:
        """Return the name of the signal, or `time limit`, or None while there is no reason to end."""
        if self._signal is None and time.monotonic() >= self._deadline:
            return TIME_LIMIT
        return self._signal

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name
