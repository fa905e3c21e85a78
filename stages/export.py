"""Write the trained model for `transformers` and prove that it is the same model: `python -m stages.export`.

Reads `out/pretrain/checkpoint` (or `checkpoints/average`), `out/pretrain/run.json`, `out/shards` (validation text) and
`out/tokenizer`. Writes to `out/export`: `model/` (LlamaForCausalLM or MixtralForCausalLM in safetensors,
configuration, tokenizer; no remote code) and `parity.json` (how far its logits and its loss are from the Megatron-Core
model's). A model that is further away than the limits is not written.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field

from model.job import Job
from stages.errors import UserError
from stages.files import OUT, output, read_json, require, sha256_file, write_json
from stages.runner import run
from stages.settings import Settings, load


class ExportSettings(Settings):
    """Which weights are exported, and how close the exported model must be."""

    weights: Literal["trained", "averaged"] = "trained"
    """Those of the last step, or the average that pretrain.averaging kept."""
    num_threads: int = Field(gt=0)
    """CPU threads."""
    sequences: int = Field(gt=0)
    """Validation sequences of each domain on which both models run."""
    max_abs_logit_difference: float = Field(gt=0)
    """Largest difference of any logit, in float32."""
    max_loss_difference: float = Field(gt=0)
    """Largest difference of the mean losses, nats per token."""


def main() -> None:
    """Export and compare."""
    settings = load("export", ExportSettings)
    job = Job.model_validate(read_json(require(OUT / "pretrain" / "run.json", "pretrain"))["settings"])
    trained = _weights(settings, job)
    limits = {
        "max_abs_logit_difference": settings.max_abs_logit_difference,
        "loss_difference": settings.max_loss_difference,
    }

    from model.convert.export import export

    with output("export") as out:
        parity = export(job, trained, out / "model", settings.num_threads, settings.sequences, limits)
        weights = {file.name: sha256_file(file) for file in sorted((out / "model").glob("*.safetensors"))}
        write_json(out / "parity.json", {**parity.as_dict(), "limits": limits, "weights_sha256": weights})


def _weights(settings: ExportSettings, job: Job) -> Path:
    if settings.weights == "averaged" and not job.pretrain.averaging:
        raise UserError("export.weights = averaged, but the run kept no average; set pretrain.averaging, or trained")
    folder = {"trained": "checkpoint", "averaged": "checkpoints/average"}[settings.weights]
    return require(OUT / "pretrain" / folder, "pretrain")


if __name__ == "__main__":
    run(__file__, main)
