"""Where the processes of a node write: a log for each rank and start, and the first rank's also on the screen."""

import contextlib
import os
import sys
import threading
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing import LogsSpecs
from torch.distributed.elastic.multiprocessing.api import LogsDest

_POLL_SECONDS = 0.1
_TAIL_BYTES = 10_000


class Follower:
    """Copies what is appended to a file to stderr, byte for byte: a progress line's carriage returns live on.

    Args:
        path: The file, which exists.
        start: Bytes of it to leave out.
    """

    def __init__(self, path: Path, start: int = 0) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._copy, args=(path, start), daemon=True)
        self._thread.start()

    def _copy(self, path: Path, start: int) -> None:
        with path.open("rb") as file, contextlib.suppress(OSError):  # a lost terminal must not end the run
            file.seek(start)
            ended, last = False, b"\n"
            while not ended:
                ended = self._ended.wait(_POLL_SECONDS)
                more = file.read()
                sys.stderr.buffer.write(more)
                sys.stderr.buffer.flush()
                last = more[-1:] or last
            sys.stderr.buffer.write(b"" if last == b"\n" else b"\n")
            sys.stderr.buffer.flush()

    def close(self) -> None:
        """Copy what is left, and stop."""
        self._ended.set()
        self._thread.join()


class RankLogs(LogsSpecs):
    """Sends both streams of each process to `rank-00000/0001.log`, `0002.log`, ...: its first start, its second, ...

    A restart, or the next run that continues this one, never overwrites what an earlier start left.

    Args:
        folder: Where the logs go; it may be shared by nodes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self._folder = folder
        self._follower: Follower | None = None
        self.starts = 0
        """Times that this node's processes have been started."""
        self.started = 0.0
        """When they last were, by `time.monotonic`."""
        self.paths: dict[int, Path] = {}
        """By local rank, the log of the last start."""

    @property
    def root_log_dir(self) -> str:
        """The folder, as torch asks for it."""
        return str(self._folder)

    def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
        """Return where the processes that are about to start write; called by torch with their environments."""
        self.close()
        self.paths = {local: _next_log(self._folder / f"rank-{int(env['RANK']):05d}") for local, env in envs.items()}
        self.starts, self.started = self.starts + 1, time.monotonic()
        errors = {local: str(path.with_suffix(".error.json")) for local, path in self.paths.items()}
        for local, env in envs.items():
            env["TORCHELASTIC_ERROR_FILE"] = errors[local]
            if env["RANK"] == "0":
                self._follower = Follower(self.paths[local])
        return LogsDest(
            stdouts=dict.fromkeys(envs, os.devnull),  # a process sends its stdout to its stderr, after its first line
            stderrs={local: str(path) for local, path in self.paths.items()},
            error_files=errors,
        )

    def close(self) -> None:
        """Show the last of the first rank's log."""
        if self._follower:
            self._follower.close()
            self._follower = None


def _next_log(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{len(list(folder.glob('*.log'))) + 1:04d}.log"
    path.touch()
    return path


def last_line(path: Path) -> str:
    """Return the last line of a log that says something; of a progress line, what it showed last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.strip()), "its log is empty")
