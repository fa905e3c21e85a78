"""One process of a job: `python -m model.process initialize FOLDER`, or `torchrun ... -m model.process train FOLDER`.

Megatron-Core's checkpoint writer spawns a helper process at each save, which imports this module again. So it imports
nothing heavy, or every save would wait for torch; and its first act holds for the helper too, which ends with its rank.
"""

import sys
from pathlib import Path

from model.orphans import die_with_parent

die_with_parent()

if __name__ == "__main__":
    from model.initialize import initialize
    from model.train import train

    {"initialize": initialize, "train": train}[sys.argv[1]](Path(sys.argv[2]))
