"""How a stage ends: well, or with one line that says what is wrong and a non-zero exit."""

import errno
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from stages.errors import UserError


def run(stage_file: str, main: Callable[[], None]) -> None:
    """Run a stage's `main`; turn what a user can cause into one line on stderr and exit code 1."""
    stage = Path(stage_file).stem
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidy up on a polite kill as on Ctrl-C
    try:
        main()
    except UserError as error:
        sys.exit(f"{stage}: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing '{error.filename}'" if error.filename else ""
        sys.exit(
            f"{stage}: no space left on the disk{where}. Free some space (`dvc gc -w` drops old results), then repeat."
        )
    except KeyboardInterrupt:
        sys.exit(f"{stage}: interrupted; nothing was left half-written. Run it again.")
