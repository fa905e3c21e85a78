"""Pieces of work for the tests of the engines; worker processes import this module, so it imports little."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from stages.curation.engine import Work


@dataclass(frozen=True)
class Write:
    """Writes its text, after it has noted in `log` that it was asked to, unless it fails."""

    text: str
    log: Path
    fault: Exception | None = None

    def __call__(self, folder: Path) -> None:
        with self.log.open("a") as log:
            log.write(f"{self.text}\n")
        (folder / "half").write_text("")
        if self.fault:
            raise self.fault
        (folder / "text").write_text(self.text)


@dataclass(frozen=True)
class KillsItsWorker(Write):
    """Kills the process that does it, as the kernel does when memory runs out, the first `times`."""

    times: int = 1

    def __call__(self, folder: Path) -> None:
        super().__call__(folder)
        if self.log.read_text().splitlines().count(self.text) <= self.times:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class KillsItsWorkerOnce:
    """Does a piece of work and, when it is about to be done for the first time, kills the process."""

    piece: Work
    log: Path

    def __call__(self, folder: Path) -> None:
        self.piece(folder)
        if not self.log.exists():
            self.log.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
