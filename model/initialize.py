"""Makes the initial weights of a job once, unsplit.

Reads `job.json` in the folder and writes the checkpoint `initial/` beside it. Every layout starts from this
checkpoint, and so from the same model. Drawing weights in each layout does not give that: pipeline stages and
experts would repeat each other's draws.
"""

from pathlib import Path

from model import checkpoint, parallel
from model.build import build_model
from model.job import read_job
from model.settings import LayoutSettings


def initialize(folder: Path) -> None:
    """Draw the weights from the job's seed on one CPU thread, in float32, and save them."""
    job = read_job(folder / "job.json")
    one = LayoutSettings()
    with parallel.processes(one, "cpu", num_threads=1, seed=job.pretrain.weight_seed):
        checkpoint.save(folder / "initial", build_model(job.model, one, job.shards.vocab_size))
