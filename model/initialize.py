"""Makes the initial weights of a job once, unsplit.

Every layout starts from this checkpoint, and so from the same model. Drawing weights in each layout does not give
that: pipeline stages and experts would repeat each other's draws.
"""

from pathlib import Path

from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from model.checkpoints import checkpoint
from model.convert import unsplit
from model.job import Job
from model.network.decoder import Decoder
from model.settings import FromCheckpoint, FromHuggingFace
from stages.errors import UserError


def initialize(job: Job, folder: Path) -> None:
    """Make `folder/initial`, in float32, unless it is there: drawn from the job's seed, or what the job starts from.

    The calling process may be one of many, but has not joined the others yet.

    Raises:
        UserError: What the job starts from is not whole, or is another model.
    """
    initial = folder / "initial"
    if initial.exists():
        return
    start = job.pretrain.start
    with unsplit.process(num_threads=1, seed=job.pretrain.weight_seed):
        if isinstance(start, FromHuggingFace):
            from model.convert import from_transformers  # a second of imports that other runs are spared

            from_transformers.start(Path(start.path), job).write(initial, {})
            return
        decoder = unsplit.build(job.model, job.shards.vocab_size)
        if isinstance(start, FromCheckpoint):
            _read_checkpoint(Path(start.path), decoder)
        unsplit.save(initial, decoder)


def _read_checkpoint(path: Path, decoder: Decoder) -> None:
    """Fill the model with the weights of a run's checkpoint."""
    faults = checkpoint.verify(path)
    if faults:
        raise UserError(f"'{path}' is no whole checkpoint: {'; '.join(faults)}; choose another pretrain.start.path")
    found = FileSystemReader(path).read_metadata().state_dict_metadata
    theirs = {key: tuple(entry.size) for key, entry in found.items() if isinstance(entry, TensorStorageMetadata)}
    for key, shape in unsplit.shapes(decoder).items():
        if theirs.get(key) != shape:
            raise UserError(
                f"'{path}' is of another model: {key} is {theirs.get(key)} there and {shape} by params.yaml; "
                "choose another pretrain.start.path, or correct model"
            )
    unsplit.load(path, decoder)
