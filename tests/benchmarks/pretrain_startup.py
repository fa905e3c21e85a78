"""A run of the stage as users start it: `python -m tests.benchmarks.pretrain_startup [--steps N]`.

Trains the model of params.yaml as params.yaml says, but for the number of steps, on a small corpus from the standard
library in a new folder. Printed are the seconds from the command to the end of the first step, and the stage's summary:
the shares of time that waiting for data and checkpoints took.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from model import megatron

megatron.install()

from stages.settings import PARAMS, read_yaml  # noqa: E402 - after install
from tests.model import corpus  # noqa: E402

LIVE_LOG = "out/pretrain/scratch/*/log.jsonl"


def main() -> None:
    """Run, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        corpus.write(root)
        corpus.write_params(root, params(steps))
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        command = [sys.executable, "-m", "stages.pretrain"]
        started = time.perf_counter()
        with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as stage:
            while stage.poll() is None and not any(log.stat().st_size for log in root.glob(LIVE_LOG)):
                time.sleep(0.05)
            print(f"first step   after {time.perf_counter() - started:.1f} s", flush=True)
            print(stage.communicate()[0])


def params(steps: int) -> dict[str, Any]:
    """Return params.yaml with a number of steps."""
    values: dict[str, Any] = read_yaml(PARAMS)
    pretrain = values["pretrain"]
    phase = pretrain["phases"]["main"]
    phase["tokens"] = steps * phase["global_batch_size"] * values["model"]["seq_length"]
    pretrain["schedule"]["warmup_steps"] = min(pretrain["schedule"]["warmup_steps"], steps // 3)
    return values


if __name__ == "__main__":
    main()
