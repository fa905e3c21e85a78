"""Evaluate the exported model on held-out text with lm-eval, next to compressors: `python -m stages.evaluate`.

Reads `out/export/model`, `out/curate/documents/test`, `out/shards` (the training split's token counts), and
`out/curate/contamination.json` (the evaluation data that the training documents were checked against).
Writes `out/evaluate/`:

- `tasks/`: the lm-eval tasks made from the test split: bits per byte over whole documents, none of them truncated,
  and multiple-choice continuation; one of each a domain;
- `samples/`: for each task a line a document or question, from which `evals.recompute` gives every reported value;
- `results.json`: values with standard errors by domain and for all, the versions and digests that they rest on, and
  which of the benchmarks the training documents were checked against;
- `metrics.json` and `plots/bits_per_byte.json`: the headline numbers.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from evals import coverage, report
from evals.coverage import UncoveredTasks
from evals.questions import ContinuationSettings, HeldOut, ask
from evals.recompute import results_from_samples
from stages.curation.benchmarks import Manifest
from stages.errors import UserError
from stages.files import OUT, output, read_json, require, write_json
from stages.runner import run
from stages.settings import Settings, load


class EvaluateSettings(Settings):
    """Section `evaluate` of params.yaml."""

    documents: int = Field(gt=1)
    """Most test documents of a domain, chosen by hash of content; each is scored whole."""

    continuation: ContinuationSettings
    """The multiple-choice task."""

    seed: int = Field(ge=0)
    """Decides, with the content, which documents and questions are taken and where the gold choice stands."""

    device: str = Field(pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where the model runs: `cpu`, `cuda` or `cuda:<index>`."""

    dtype: Literal["float32", "bfloat16", "float16"]
    """Type of weights and activations."""

    threads: int = Field(gt=0)
    """CPU threads; part of what decides the last bits."""

    batch_size: int = Field(gt=0)
    """Windows, of one context length each, that the model scores at once. On a CPU few are faster than many."""

    tasks: tuple[str, ...]
    """Further lm-eval tasks, groups or tags by name, reported under `benchmarks`; their data must be local."""

    uncovered_tasks: UncoveredTasks
    """What to do about `tasks` whose data curation did not check the training documents against. Tasks made from the
    test split are not meant: no document of it, nor one nearly equal, is in the training split."""

    include_path: Path | None
    """Folder of lm-eval task definitions of your own."""


def main() -> None:
    """Load, choose documents and questions, score them, write."""
    settings = load("evaluate", EvaluateSettings)
    model = require(OUT / "export" / "model" / "config.json", "export").parent
    test = require(OUT / "curate" / "documents" / "test", "curate")
    require(OUT / "shards" / "index.json", "shards")
    checked = require(OUT / "curate" / "contamination.json", "curate")
    _check(settings, model)
    covered = _coverage(settings, Manifest.model_validate_json(checked.read_text(encoding="utf-8")))

    from evals.split import select

    documents = select(test, settings.documents, settings.seed)
    questions = {domain: ask(chosen, settings.continuation, settings.seed) for domain, chosen in documents.items()}
    with output("evaluate") as folder:
        results = {**_evaluate(settings, model, HeldOut(documents, questions), folder), "coverage": covered}
        write_json(folder / "results.json", results)
        write_json(folder / "metrics.json", report.headline(results))
        write_json(folder / "plots" / "bits_per_byte.json", report.bars(results))
    print("\n".join(report.lines(results)))


def _check(settings: EvaluateSettings, model: Path) -> None:
    """Refuse what would fail or be cut off only after minutes; a byte-level token is at least one byte."""
    context = read_json(model / "config.json")["max_position_embeddings"]
    longest = settings.continuation.context_bytes + settings.continuation.choice_bytes
    if longest > context:
        raise UserError(
            f"evaluate.continuation: context_bytes + choice_bytes = {longest}, over the {context} tokens "
            "of the model's context, so a question could be cut off. Lower one of them."
        )
    if settings.include_path and not settings.include_path.is_dir():
        raise UserError(f"evaluate.include_path = '{settings.include_path}' is not a folder. Correct it or set null.")


def _coverage(settings: EvaluateSettings, checked: Manifest) -> dict[str, Any]:
    """Return which of the benchmarks the training documents were checked against, or refuse."""
    asked: dict[str, list[str]] = {}
    if settings.tasks:
        from evals.harness import leaves

        asked = leaves(settings.tasks, settings.include_path, "evaluate")
    coverage.check(asked, checked, settings.uncovered_tasks)
    return {
        "asked": asked,
        "covered": coverage.covered(asked, checked),
        "uncovered_tasks": coverage.uncovered(asked, checked),
    }


def _evaluate(settings: EvaluateSettings, model: Path, held_out: HeldOut, folder: Path) -> dict[str, Any]:
    """Write tasks and samples below `folder`; return the content of results.json."""
    from evals import harness, samples, tasks, unigram
    from evals.baselines import Baselines

    names = tasks.write(folder / "tasks", held_out)
    scorer = harness.Model(model, settings.device, settings.dtype, settings.batch_size, settings.threads)
    outcome = harness.run(scorer, folder / "tasks", names, settings.tasks, settings.include_path)
    baselines = Baselines(unigram.fit(OUT / "shards"), model, settings.threads)
    samples.write(folder / "samples", held_out, outcome.samples, baselines)
    results = results_from_samples(folder / "samples")
    report.check_against_lm_eval(results, outcome.results)
    definitions = {
        name: {"version": outcome.versions[name], "sha256": tasks.definition_digest(folder / "tasks", name)}
        for name in names
    }
    results["harness"] = {**harness.versions(), "tasks": definitions}
    results["benchmarks"] = {name: outcome.benchmark(name) for name in sorted(outcome.results.keys() - set(names))}
    return results


if __name__ == "__main__":
    run(__file__, main)
