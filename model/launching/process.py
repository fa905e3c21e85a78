"""One process of a job, `torchrun ... -m model.launching.process FOLDER`, which ends when its launcher does."""

import os
import sys
from pathlib import Path

from model.launching.orphans import die_with_parent
from model.launching.signals import trace_faults

if __name__ == "__main__":
    die_with_parent()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # one log of a rank, in the order of events
    trace_faults()
    from model.train import train  # which takes seconds

    train(Path(sys.argv[1]))
