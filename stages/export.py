"""Write the trained model for `transformers` and prove that it is the same model: `python -m stages.export`.

Reads `out/pretrain/checkpoint` (or `checkpoints/average`), `out/pretrain/checkpoints`, `out/pretrain/run.json`,
`out/shards` (validation text) and `out/tokenizer`. Writes to `out/export`: `model/` (the family's class of
`transformers` in safetensors, configuration, tokenizer; no remote code), `checkpoints/step-XXXXXXXX/` (the same of
every checkpoint that the run released, as it was then) and `parity.json` (how far the logits and the loss of each are
from the Megatron-Core model's). Nothing is written if one of them is further away than the limits.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from model.job import Job
from stages.errors import UserError
from stages.files import OUT, output, read_json, require, sha256_file, write_json
from stages.runner import run
from stages.settings import Settings, load

if TYPE_CHECKING:
    from model.convert.described import Described


class ExportSettings(Settings):
    """Which weights are exported, in which form, and how close the exported model must be."""

    weights: Literal["trained", "averaged"] = "trained"
    """Those of the last step, or the average that pretrain.averaging kept."""
    checkpoints: bool = True
    """Whether the checkpoints that the run released are exported too."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the tensors, but for the few that a family keeps in float32."""
    shard_bytes: int = Field(default=5_000_000_000, gt=0)
    """Largest size of a safetensors file; a larger tensor has a file of its own."""
    num_threads: int = Field(gt=0)
    """CPU threads."""
    sequences: int = Field(gt=0)
    """Validation sequences of each domain on which both models run."""
    compare: Literal["whole", "by_layer"] = "whole"
    """Both models in memory; or no more than a layer and the tables of each, read again for every batch."""
    max_abs_logit_difference: float = Field(gt=0)
    """Largest difference of any logit, in float32, of weights rounded to `dtype`."""
    max_loss_difference: float = Field(gt=0)
    """Largest difference of the mean losses, nats per token."""


def main() -> None:
    """Export and compare."""
    settings = load("export", ExportSettings)
    job = Job.model_validate(read_json(require(OUT / "pretrain" / "run.json", "pretrain"))["settings"])
    trained = _weights(settings, job)

    from model.convert import described, unsplit

    with output("export") as out, unsplit.process(settings.num_threads):
        parity = _export(settings, job, trained, described.of_run(job), out / "model")
        (out / "checkpoints").mkdir()  # an output of the graph, whatever is in it
        released = {}
        for path in _released(settings):
            model = described.of_run(job, int(path.name.removeprefix("step-")))
            released[path.name] = _export(settings, job, path, model, out / "checkpoints" / path.name)
        write_json(out / "parity.json", {**parity, "checkpoints": released})


def _export(settings: ExportSettings, job: Job, trained: Path, described: "Described", folder: Path) -> dict[str, Any]:
    """Export a checkpoint and return how it compares, with the digests of what was compared."""
    import torch

    from model.convert.export import Gate, export

    limits = {
        "max_abs_logit_difference": settings.max_abs_logit_difference,
        "loss_difference": settings.max_loss_difference,
    }
    gate = Gate(settings.sequences, limits, settings.compare == "by_layer")
    dtype = getattr(torch, settings.dtype)
    parity = export(job, trained, described, folder, dtype, settings.shard_bytes, gate)
    weights = {file.name: sha256_file(file) for file in sorted(folder.glob("*.safetensors"))}
    return {
        **parity.as_dict(),
        "dtype": settings.dtype,
        "compare": settings.compare,
        "limits": limits,
        "weights_sha256": weights,
    }


def _weights(settings: ExportSettings, job: Job) -> Path:
    if settings.weights == "averaged" and not job.pretrain.averaging:
        raise UserError("export.weights = averaged, but the run kept no average; set pretrain.averaging, or trained")
    folder = {"trained": "checkpoint", "averaged": "checkpoints/average"}[settings.weights]
    return require(OUT / "pretrain" / folder, "pretrain")


def _released(settings: ExportSettings) -> list[Path]:
    return sorted((OUT / "pretrain" / "checkpoints").glob("step-*")) if settings.checkpoints else []


if __name__ == "__main__":
    run(__file__, main)
