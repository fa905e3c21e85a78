"""One process of a job: `torchrun ... -m model.process train FOLDER`.

Megatron-Core's checkpoint writer spawns a helper process, which imports this module again and would outlive a rank
that is killed. So the first act here is to end with the parent, which holds for the helper too; and nothing heavy is
imported.
"""

import os
import sys
from pathlib import Path

from model.orphans import die_with_parent
from model.signals import leave_ending_to_the_parent, trace_faults

die_with_parent()

if __name__ == "__main__":
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # one log of a rank, in the order of events
    trace_faults()
    from model.train import train

    {"train": train}[sys.argv[1]](Path(sys.argv[2]))
else:
    leave_ending_to_the_parent()
