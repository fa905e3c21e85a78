"""One process of a job: `python -m model.process initialize FOLDER`, or `torchrun ... -m model.process train FOLDER`.

Megatron-Core's checkpoint writer spawns a helper process, which imports this module again and would outlive a rank
that is killed. So the first act here is to end with the parent, which holds for the helper too; and nothing heavy is
imported.
"""

import sys
from pathlib import Path

from model.orphans import die_with_parent

die_with_parent()

if __name__ == "__main__":
    from model.initialize import initialize
    from model.train import train

    {"initialize": initialize, "train": train}[sys.argv[1]](Path(sys.argv[2]))
