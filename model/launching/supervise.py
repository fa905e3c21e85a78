"""What the launcher does beside torch's elastic agent: hands on signals, and ends processes that are stuck."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil
from torch.distributed.elastic.multiprocessing import SignalException

from model.launching import heartbeat
from model.launching.ranks import RankLogs
from model.launching.signals import PAUSED, TRACE

_SAME_SIGNAL_SECONDS = 1.0
_TRACE_SECONDS = 1.0
_WATCH_SECONDS = 0.5
_SAVE_SECONDS = 600
"""What processes get after a signal, for the end of a step and a checkpoint, before they are killed."""


def tell(text: str) -> None:
    """Write a line to the screen, below the progress line."""
    sys.stderr.write(f"\npretrain: {text}\n")


class Signals:
    """While they are handled, SIGTERM, SIGINT and SIGHUP end the job.

    The first is handed on to this node's processes, if there are any. They agree with those of other nodes, save a
    checkpoint and end; so all agents see an end like any other, and leave together. A second kills the processes and
    raises torch's `SignalException`, as the first does where none are. One press of Ctrl-C may arrive twice, from the
    terminal and from the parent process: what follows within a second is the first one still.
    """

    def __init__(self) -> None:
        self.first: str | None = None
        """Name of the signal that came first, or None."""
        self.at = 0.0
        """When it came, by `time.monotonic`."""

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals; a hang-up that `nohup` made ignored stays so."""
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first, self.at = signal.Signals(number).name, now
            if workers():
                send_workers(signal.SIGTERM)
                return
        elif now - self.at < _SAME_SIGNAL_SECONDS:
            return
        send_workers(signal.SIGKILL)
        raise SignalException(f"got {self.first}", signal.SIGTERM)


class Watch:
    """A thread beside the agent, which ends what would not end by itself.

    - A stuck rank holds up the others in their next collective operation, and none would notice before its timeout,
      which is long. When a rank has been silent for `limit`, every node kills its processes, without asking: a stuck
      one may heed nothing. Then the agents restart them, or the job fails. Watching starts when every rank that ever
      gave a sign of life has given one since the processes were started: before, ages are those of an earlier start.
    - After a signal, processes that do not end in time are killed, and an agent that has none left, or would restart
      those that the signal found too early to heed it, is ended.

    Args:
        folder: The run's folder.
        world_size: Processes of the job.
        limit: Seconds of silence, `runtime.heartbeat_seconds`.
        logs: Knows when the processes were started.
        signals: Knows when a signal came.
    """

    def __init__(self, folder: Path, world_size: int, limit: float, logs: RankLogs, signals: Signals) -> None:
        self._folder, self._world_size, self._limit = folder, world_size, limit
        self._logs, self._signals = logs, signals
        self._ended = threading.Event()
        self._found = (0, "")

    @property
    def found(self) -> str | None:
        """What was seen of a stuck rank since the processes were last started, for people; None if there was none."""
        start, text = self._found
        return text if start == self._logs.starts and text else None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

    def _watch(self) -> None:
        next_look = 0.0
        while not self._ended.wait(_WATCH_SECONDS):
            now = time.monotonic()
            if self._signals.first:
                self._end_stopped(now)
            if now >= next_look and workers():
                next_look = now + self._limit / 10
                self._end_stuck(now)

    def _end_stopped(self, now: float) -> None:
        if workers() and self._logs.started < self._signals.at:
            if now > self._signals.at + _SAVE_SECONDS:
                send_workers(signal.SIGKILL)
        elif now > self._signals.at + _SAME_SIGNAL_SECONDS and not (self._folder / PAUSED).exists():
            os.kill(os.getpid(), signal.SIGTERM)  # the second, to the agent's thread

    def _end_stuck(self, now: float) -> None:
        beat = heartbeat.oldest(self._folder, self._world_size)
        if beat and self._limit <= beat.age < now - self._logs.started:
            text = (
                f"rank {beat.rank}, silent longest, has taken no step for {beat.age:.0f} s since step {beat.step}; "
                f"the logs in '{self._logs.root_log_dir}' end with where each process was"
            )
            self._found = (self._logs.starts, text)
            tell(text)
            send_workers(TRACE)
            time.sleep(_TRACE_SECONDS)
            send_workers(signal.SIGKILL)


def workers() -> list[psutil.Process]:
    """Return the living processes of the job that this one has started: its only children while an agent runs."""
    return [process for process in psutil.Process().children() if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # which it is until the agent looks at it
    except psutil.NoSuchProcess:
        return False


def send_workers(number: signal.Signals) -> None:
    """Send a signal to each process of this node; their helpers end with them."""
    for process in workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
