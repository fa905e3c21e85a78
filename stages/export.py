"""Write the trained model for `transformers` and prove that it is the same model: `python -m stages.export`.

Reads `out/pretrain/checkpoint`, `out/pretrain/run.json`, `out/shards` (validation text) and `out/tokenizer`.
Writes to `out/export`: `model/` (LlamaForCausalLM in safetensors, configuration, tokenizer; no remote code) and
`parity.json` (how far its logits and its loss are from the Megatron-Core model's). A model that is further away
than the limits is not written.
"""

from pydantic import Field

from model.job import Job
from stages.files import OUT, output, read_json, require, sha256_file, write_json
from stages.runner import run
from stages.settings import Settings, load


class ExportSettings(Settings):
    """How close the exported model must be."""

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
    trained = require(OUT / "pretrain" / "checkpoint", "pretrain")
    job = Job.model_validate(read_json(require(OUT / "pretrain" / "run.json", "pretrain"))["settings"])
    limits = {
        "max_abs_logit_difference": settings.max_abs_logit_difference,
        "loss_difference": settings.max_loss_difference,
    }

    from model.export import export

    with output("export") as out:
        parity = export(job, trained, out / "model", settings.num_threads, settings.sequences, limits)
        weights = {file.name: sha256_file(file) for file in sorted((out / "model").glob("*.safetensors"))}
        write_json(out / "parity.json", {**parity.as_dict(), "limits": limits, "weights_sha256": weights})


if __name__ == "__main__":
    run(__file__, main)
